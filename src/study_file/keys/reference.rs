//! The reference page of the study file, `docs/reference/study-file.md`: made from the entries alone.

use super::{About, Described, Least, Preset, Takes};
use crate::study_file::check::ROOT;
use crate::study_file::walk::COUNT_MAX;

const OPENING: &str = "\
# The study file, key by key

<!-- Made from the entries of the keys; `PITON_UPDATE_DOCS=1 cargo test --lib the_reference_page` writes it anew. -->

[The study file](../study-file.md) explains what these keys do together; here is each of them. Editors that know TOML show the same
beside a file that begins with a `#:schema` line, as those of `piton new` do, and `piton schema` prints the schema.
`piton check` says what is wrong with a file, and where.
";

pub(super) fn reference() -> String {
    let mut page = OPENING.to_owned();
    let mut sections: Vec<&dyn Described> = vec![&ROOT];
    collect(&ROOT, &mut sections);
    for section in sections {
        page.push_str(&format!("\n## {}\n\n{}", heading(section), section.doc()));
        if !section.one_of().is_empty() {
            let names: Vec<String> = section.one_of().iter().map(|name| format!("`{name}`")).collect();
            page.push_str(&format!(" One of {} must be there.", names.join(", ")));
        }
        page.push_str("\n\n| key | takes | default | what it is for |\n| --- | --- | --- | --- |\n");
        for About { name, takes, preset, doc } in section.keys() {
            let preset = match preset {
                Preset::Required(_) => "required".to_owned(),
                Preset::Words(words) => (*words).to_owned(),
                Preset::Value(value) => format!("`{value}`"),
            };
            page.push_str(&format!("| `{name}` | {} | {preset} | {doc} |\n", words(takes)));
        }
    }
    page
}

/// The sections within a section, each once.
fn collect(section: &dyn Described, sections: &mut Vec<&'static dyn Described>) {
    for about in section.keys() {
        collect_of(&about.takes, sections);
    }
}

fn collect_of(takes: &Takes, sections: &mut Vec<&'static dyn Described>) {
    match takes {
        Takes::Table(section) | Takes::Defaults(section)
            if !sections.iter().any(|known| known.title() == section.title()) =>
        {
            sections.push(*section);
            collect(*section, sections);
        }
        Takes::List(of, _) | Takes::Set(of, _) | Takes::Map(_, of, _) => collect_of(of, sections),
        Takes::Either(each) => each.iter().for_each(|one| collect_of(one, sections)),
        _ => {}
    }
}

fn heading(section: &dyn Described) -> String {
    let title = section.title();
    let first = title.get(..1).unwrap_or_default().to_uppercase();
    format!("{first}{}", title.get(1..).unwrap_or_default())
}

/// A link to a section of the page.
fn link(section: &dyn Described) -> String {
    let anchor: String = heading(section)
        .to_lowercase()
        .replace(' ', "-")
        .chars()
        .filter(|c| c.is_alphanumeric() || ['_', '-'].contains(c))
        .collect();
    format!("[{}](#{anchor})", section.title())
}

fn words(takes: &Takes) -> String {
    match takes {
        Takes::Text => "text".to_owned(),
        Takes::Filled(what) | Takes::Form(_, what) => (*what).to_owned(),
        Takes::But(form, _) => words(form),
        Takes::Integer(least, most) if *most >= COUNT_MAX.min(u32::MAX.into()) => format!("integer from {least}"),
        Takes::Integer(least, most) => format!("integer from {least} to {most}"),
        Takes::Number(Least::Any) => "number".to_owned(),
        Takes::Number(Least::Zero) => "number from 0".to_owned(),
        Takes::Number(Least::Above) => "number above 0".to_owned(),
        Takes::Number(Least::ShareOrZero) => "number from 0 to 1".to_owned(),
        Takes::Number(Least::Share) => "number above 0, at most 1".to_owned(),
        Takes::Flag => "`true` or `false`".to_owned(),
        Takes::Duration | Takes::DurationOrZero => "duration, such as `\"1h 30m\"`".to_owned(),
        Takes::Size => "size, such as `\"4GiB\"`".to_owned(),
        Takes::Word(words) => {
            let words: Vec<String> = words().iter().map(|word| format!("`\"{word}\"`")).collect();
            words.join(", ")
        }
        Takes::Value => "string, boolean, integer or float".to_owned(),
        Takes::List(of, 0) => format!("list: {}", words(of)),
        Takes::List(of, _) => format!("list, not empty: {}", words(of)),
        Takes::Set(of, 0) => format!("list, no two alike: {}", words(of)),
        Takes::Set(of, _) => format!("list, not empty, no two alike: {}", words(of)),
        Takes::Map(names, of, _) => format!("table by {}: {}", words(names), words(of)),
        Takes::Table(section) => link(*section),
        Takes::Defaults(section) => format!("any keys of {}", link(*section)),
        Takes::Either(each) => each.iter().map(words).collect::<Vec<_>>().join("; or "),
        Takes::Anything => "table".to_owned(),
    }
}
