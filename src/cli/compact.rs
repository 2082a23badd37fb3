//! `piton compact`: the store without its free space, for archives and for copying.

use piton::views::bytes;
use piton::{Error, Store};

use super::args::CompactArgs;
use super::outcome::{print_json, print_line};

/// Compacts a store that no engine has open.
pub fn compact(args: &CompactArgs) -> Result<u8, Error> {
    let store = &args.store.store;
    let done = Store::at(store).compact()?;
    if args.json {
        let (before, after) = (done.before_bytes, done.after_bytes);
        print_json(&serde_json::json!({ "schema": 1, "before_bytes": before, "after_bytes": after }))?;
        return Ok(0);
    }
    let (before, after) = (bytes(done.before_bytes), bytes(done.after_bytes));
    print_line(&format!("`{}`: {before} before, {after} now", store.display()))?;
    Ok(0)
}
