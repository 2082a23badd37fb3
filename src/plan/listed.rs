//! Cases listed in a file: each parent gets its rows, in order.

use crate::model::Value;
use crate::spec::CaseFile;

/// How many cases it lists; none until it is read.
pub(super) fn count(file: &CaseFile) -> u64 {
    file.cases.as_ref().map_or(0, |cases| u64::try_from(cases.rows.len()).unwrap_or(u64::MAX))
}

/// The values of a row, in the order of the file's names; `None` beyond the last one.
pub(super) fn values(file: &CaseFile, place: u64) -> Option<Vec<(String, Value)>> {
    let cases = file.cases.as_ref()?;
    let row = cases.rows.get(usize::try_from(place).ok()?)?;
    Some(cases.names.iter().zip(row).map(|(name, value)| (name.clone(), value.0.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::CaseList;

    #[test]
    fn rows_come_in_the_order_of_the_file() {
        let rows = vec![vec!["x".into(), 2.into()], vec!["y".into(), 1.into()]];
        let list = CaseList { names: vec!["b".into(), "a".into()], rows, merged: 0 };
        let file = CaseFile { path: "c.csv".into(), cases: Some(list) };
        assert_eq!(count(&file), 2);
        let second = vec![("b".into(), Value::Str("y".into())), ("a".into(), Value::Int(1))];
        assert_eq!(values(&file, 1), Some(second));
        assert_eq!(values(&file, 2), None);
        let unread = CaseFile { path: "c.csv".into(), cases: None };
        assert_eq!((count(&unread), values(&unread, 0)), (0, None));
    }
}
