//! The page of small studies: what it shows, that nothing of a trial is markup in it, and that it stays small.

use super::*;
use crate::model::Next;
use crate::testing::story::{ALIVE, DEAD, Story};

fn html(story: &Story, liveness: crate::views::Liveness) -> String {
    let (view, snapshot) = story.view(liveness);
    let options = Options {
        artifacts_link: Some("artifacts/tiny".into()),
        nonce: "0123abcd".into(),
        now_ms: 1_000,
        live: false,
        studies_link: None,
    };
    let mut out = Vec::new();
    Report::load(&view, &snapshot).unwrap().write_html(&options, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn it_tells_the_story_of_each_stage() {
    let mut story = Story::new();
    story.complete();
    let page = html(&story, DEAD);
    for words in [
        "4 planned",
        "3 succeeded",
        "1 failed",
        "2 survived",
        "bytes (smaller is better)",
        "t_0_3 (survivor)".replace(" (", ": 100 (").as_str(),
        "exit_code",
        "1 run",
        "t</code> (base case)",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("was running when"));
}

#[test]
fn a_study_that_has_not_begun_has_a_page_too() {
    let page = html(&Story::new(), ALIVE);
    assert!(page.contains("not begun") && page.contains("Nothing has run yet."));
    assert!(page.contains("was running when"));
}

/// Everything between tags, and every attribute, of hostile text must be text.
#[test]
fn nothing_of_a_trial_is_markup() {
    let hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u{2028}";
    let mut story = Story::told(2, hostile);
    story.run().open_explore().start(0, 1).succeed(0, 1, 5.0).start(1, 1);
    story.fail(1, 1, hostile, Next::Final).start(2, 1).succeed(2, 1, 4.0).start(3, 1).succeed(3, 1, 3.0);
    story.close_explore();
    let page = html(&story, ALIVE);
    assert!(page.contains("alert(1)"), "it is shown at all");
    // One data element and one script, both with the nonce; nothing else begins like either.
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(
        page.matches("<script nonce=\"0123abcd\"").count() + page.matches("<script id=\"data\"").count(),
        2
    );
    assert_eq!(page.matches("</script").count(), 2);
    assert_eq!(page.matches("<img").count(), 0);
    // Double quotes never end an attribute early: between `="` and the next `"` there is no bare angle bracket.
    for value in page.split("=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(!value.contains("<img") && !value.contains("<script"), "{value}");
    }
}

#[test]
fn no_address_leads_out_of_the_page() {
    let mut story = Story::new();
    story.complete();
    let page = html(&story, DEAD);
    for outside in ["http:", "https:", "//cdn", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("default-src 'none'"));
    assert!(!page.contains(" style=") && !page.contains(" onclick="), "the policy would not let it count");
}
