//! The report in a real browser: drawn, sorted, filtered, and deaf to what trials would like it to run.

use serde_json::json;

use crate::browser::Browser;
use crate::harness::{Sandbox, StudyFile};

/// Names, values and messages that would be markup if anybody let them.
fn study_file() -> StudyFile {
    StudyFile::new("page")
.with(r#"description = "<img src=x onerror=\"document.title='owned'\">""#)
.run("workers = 2")
.stage("try", r#"echo "<script>document.title=1</script>" >&2; [ {n} -ne 7 ] || exit 3
               echo "{{\"cost\": $(( ({n} - 12) * ({n} - 12) )), \"size\": {n}, \"note\": \"</script><img src=x onerror=alert(1)>\"}}" > metrics.json"#, 60, 4)
.with(r#"selection = "pareto""#)
.sweep("n = { min = 1, max = 20, type = \"int\" }\nmode = [\"plain\", \"</script><script>document.title='owned'</script>\", \"\\\" onload=\\\"alert(1)\"]")
.minimize("cost")
.maximize("size")
}

#[test]
fn a_browser_draws_sorts_and_filters_it_and_runs_nothing_of_a_trial() {
    let sandbox = Sandbox::with_study(study_file());
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.ok("report study.redb -o page.html", 0).trim(), "page.html");
    let page = std::fs::read_to_string(sandbox.path("page.html")).unwrap();
    assert!(page.len() < 200_000, "{} bytes", page.len());
    for width in [1280, 400] {
        let browser = Browser::start(width, 1_000);
        browser.open(&format!("file://{}", sandbox.path("page.html").display()));
        assert_eq!(browser.script("return document.title"), "page · piton");
        assert_eq!(browser.complaints(), Vec::<String>::new());
        // Progress, Pareto front, parallel coordinates, two scatters, the workers.
        assert_eq!(browser.script("return document.querySelectorAll('svg').length"), 6);
        let drawn =
            "return [...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().height > 50)";
        assert_eq!(browser.script(drawn), true);
        let rows = "return document.querySelectorAll('#table tbody tr').length";
        assert_eq!(browser.script(rows), 60);
        assert_eq!(browser.script("return document.images.length"), 0);
        // The page is as wide as its window: what is wider scrolls inside it.
        assert_eq!(browser.script("return document.documentElement.scrollWidth <= window.innerWidth"), true);

        let first = |column: usize| {
            format!("return document.querySelector('#table tbody tr td:nth-child({column})').textContent")
        };
        let click = |name: &str| {
            format!(
                "[...document.querySelectorAll('#table th button')].find(b => b.textContent.startsWith('{name}')).click()"
            )
        };
        // Case, state, survivor, mode, n, cost, size, …
        browser.script(&click("cost"));
        assert_eq!((browser.script(&first(5)), browser.script(&first(6))), (json!("12"), json!("0")));
        browser.script(&click("n"));
        browser.script(&click("n"));
        assert_eq!(browser.script(&first(5)), "20");
        assert_eq!(
            browser.script("return document.querySelector('#table th[aria-sort=descending]').textContent.trim()"),
            "n ▼"
        );
        let filter = |words: &str| {
            format!(
                "const i = document.querySelector('#table input'); i.value = '{words}'; i.dispatchEvent(new Event('input'))"
            )
        };
        browser.script(&filter("exit_code plain"));
        assert_eq!(browser.script(rows), 1);
        browser.script(&filter(""));
        let choose = "const s = document.querySelectorAll('#table select')[1]; s.value = 'survivors'; s.dispatchEvent(new Event('change'))";
        browser.script(choose);
        assert_eq!(browser.script(rows), 4);
        // Logs are where the links say.
        let link = browser.script("return document.querySelector('#table a[href$=\"stderr.log\"]').href");
        browser.open(link.as_str().unwrap());
        let text = browser.script("return document.body.textContent");
        assert!(text.as_str().unwrap().contains("<script>document.title=1</script>"), "{text}");
    }
}

/// What was taken over or ended early stands at its head: how many, and about how long they would have taken.
#[test]
fn it_says_what_was_not_computed() {
    let file = StudyFile::new("spared")
        .stage("only", "sleep 0.02; echo '{{\"y\": {x}}}' > metrics.json", 6, 1)
        .with("reuse = true\nuses = [\"x\"]")
        .sweep("x = [1, 2]\nz = [1, 2, 3]")
        .minimize("y");
    let sandbox = Sandbox::finished(file, 0);
    sandbox.ok("report study.redb -o page.html", 0);
    let page = std::fs::read_to_string(sandbox.path("page.html")).unwrap();
    let saved = page.split("<p id=\"saved\">").nth(1).unwrap().split("</p>").next().unwrap();
    assert!(
        saved.starts_with("Not computed: 4 trials took the result of an equal one. That spared about <strong>"),
        "{saved}"
    );
}
