//! The names of closed enums: each has one table, and name, parsing, serialisation and the list of valid names follow from it.
//!
//! The names are part of study files, dumps and hashes of specs: none may ever change. They are said, and do not follow from
//! the variants as the derives of a library would have it, so that renaming a variant renames nothing that a user sees.

/// What has a fixed set of values, each with a name.
pub trait Named: Copy + 'static {
    /// All of them, in the order of their declaration.
    const ALL: &'static [Self];

    /// Its name in study files, dumps and messages.
    #[must_use]
    fn name(self) -> &'static str;

    /// The one of this name.
    #[must_use]
    fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|one| one.name() == name)
    }
}

/// Names the variants of an enum: of one that users see, or with the visibility that is said.
macro_rules! named {
    ($type:ident $variants:tt) => { $crate::model::named!(pub $type $variants); };
    ($vis:vis $type:ident { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// Its name in study files, dumps and messages.
            #[must_use]
            $vis const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl $crate::model::Named for $type {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn name(self) -> &'static str {
                self.name()
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        #[cfg(test)]
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": [$($name),+] })
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                let valid = || $crate::model::unknown_name::<$type, D::Error>(&name);
                <Self as $crate::model::Named>::by_name(&name).ok_or_else(valid)
            }
        }
    };
}
pub(crate) use named;

/// All names of a closed enum.
pub(crate) fn names_of<T: Named>() -> Vec<&'static str> {
    T::ALL.iter().map(|one| one.name()).collect()
}

/// A name that is none, with those that are.
pub(crate) fn unknown_name<T: Named, E: serde::de::Error>(name: &str) -> E {
    E::custom(format_args!("`{name}` is none of {}", names_of::<T>().join(", ")))
}

#[cfg(test)]
mod tests {
    use super::Named;
    use crate::model::{Rail, RunEnd, Severity, StudyStatus};

    fn named_and_back<T: Named + PartialEq + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned>() {
        for (place, one) in T::ALL.iter().enumerate() {
            assert_eq!(T::by_name(one.name()), Some(*one));
            assert!(!T::ALL.iter().take(place).any(|before| before.name() == one.name()), "{one:?}");
            let json = serde_json::to_string(one).unwrap();
            assert_eq!(json, format!("\"{}\"", one.name()));
            assert_eq!(serde_json::from_str::<T>(&json).unwrap(), *one);
        }
        let refused = serde_json::from_str::<T>("\"nonsense\"").unwrap_err().to_string();
        assert!(T::ALL.iter().all(|one| refused.contains(one.name())), "{refused}");
    }

    #[test]
    fn names_lead_back() {
        named_and_back::<Rail>();
        named_and_back::<Severity>();
        named_and_back::<StudyStatus>();
        named_and_back::<RunEnd>();
    }
}
