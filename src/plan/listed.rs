//! Cases listed in a file: each parent gets its rows, in order.

use crate::model::Value;
use crate::study_file::{CaseFile, SpecValue};

/// How many cases it lists; none until it is read.
pub(super) fn count(file: &CaseFile) -> u64 {
    file.cases.as_ref().map_or(0, |cases| u64::try_from(cases.rows.len()).unwrap_or(u64::MAX))
}

/// The values that a row has, in the order of the file's names; `None` beyond the last one.
pub(super) fn values(file: &CaseFile, place: u64) -> Option<Vec<(String, Value)>> {
    let cases = file.cases.as_ref()?;
    let row = cases.rows.get(usize::try_from(place).ok()?)?;
    let given = |(name, value): (&String, &Option<SpecValue>)| Some((name.clone(), value.as_ref()?.0.clone()));
    Some(cases.names.iter().zip(row).filter_map(given).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::study_file::CaseList;

    #[test]
    fn rows_come_in_the_order_of_the_file() {
        let rows = vec![
            vec![Some("x".into()), Some(2.into())],
            vec![Some("y".into()), Some(1.into())],
            vec![None, Some(3.into())],
        ];
        let list = CaseList { names: vec!["b".into(), "a".into()], rows, merged: 0 };
        let file = CaseFile { path: "c.csv".into(), rename: BTreeMap::new(), cases: Some(list) };
        assert_eq!(count(&file), 3);
        let second = vec![("b".into(), Value::Str("y".into())), ("a".into(), Value::Int(1))];
        assert_eq!(values(&file, 1), Some(second));
        assert_eq!(values(&file, 2), Some(vec![("a".into(), Value::Int(3))]), "no value, no param");
        assert_eq!(values(&file, 3), None);
        let unread = CaseFile { path: "c.csv".into(), rename: BTreeMap::new(), cases: None };
        assert_eq!((count(&unread), values(&unread, 0)), (0, None));
    }
}
