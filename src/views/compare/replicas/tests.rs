//! What evidence says of lines, and how often it says what is not so.

use super::*;

fn row() -> Row {
    Row {
        case: "c".into(),
        metric: Some("t".into()),
        baseline: None,
        now: None,
        delta: None,
        allowed: None,
        finding: Finding::Inconclusive,
        regression: false,
        detail: None,
        replicas: None,
    }
}

/// What lines of such falls of their pairs (worse, within, better) come to.
fn judged(lines: &[(u32, u32, u32)], directed: bool) -> Vec<Row> {
    let mut rows: Vec<Row> = lines.iter().map(|_| row()).collect();
    let judged: Vec<Judged> = lines
        .iter()
        .enumerate()
        .map(|(line, (worse, within, better))| {
            let tally = Tally { worse: *worse, within: *within, better: *better };
            Judged { line, tally, directed, deltas: Vec::new() }
        })
        .collect();
    judge(&mut rows, &judged, false);
    rows
}

fn findings(lines: &[(u32, u32, u32)]) -> Vec<Finding> {
    judged(lines, true).iter().map(|row| row.finding).collect()
}

#[test]
fn one_line_takes_six_replicas_and_more_lines_take_more() {
    use Finding::{Better, Equivalent, Inconclusive, Worse};
    assert_eq!(findings(&[(5, 0, 0)]), [Inconclusive]);
    assert_eq!(findings(&[(6, 0, 0)]), [Worse]);
    assert_eq!(findings(&[(0, 0, 6)]), [Better]);
    assert_eq!(findings(&[(0, 6, 0)]), [Equivalent]);
    // Of ten lines a single one needs ten; five that agree need fewer.
    let mut ten = [(5, 0, 5); 10];
    ten[3] = (9, 0, 0);
    assert_eq!(findings(&ten), [Inconclusive; 10]);
    ten[3] = (10, 0, 0);
    assert_eq!(findings(&ten)[3], Worse);
    ten[..5].fill((7, 0, 0));
    assert_eq!(findings(&ten)[..5], [Worse; 5]);
}

#[test]
fn what_is_inconclusive_says_what_would_decide() {
    let said = judged(&[(5, 0, 0)], true).remove(0);
    assert_eq!(
        said.detail.as_deref(),
        Some("5 worse, 0 within, 0 better of 5 replicas; 1 more that is worse would decide")
    );
    assert_eq!(said.replicas.as_ref().unwrap().more, Some(1));
    // What it says is so.
    for (worse, within, better) in [(5, 0, 0), (3, 2, 1), (0, 4, 1), (7, 7, 7), (0, 0, 3)] {
        let said = judged(&[(worse, within, better)], true).remove(0);
        let more = said.replicas.unwrap().more.unwrap();
        let decided = |worse, within, better| findings(&[(worse, within, better)])[0] != Finding::Inconclusive;
        let by_one_less = [
            decided(worse + more - 1, within, better),
            decided(worse, within + more - 1, better),
            decided(worse, within, better + more - 1),
        ];
        assert_eq!(by_one_less, [false; 3], "{more}");
        assert!(
            decided(worse + more, within, better)
                || decided(worse, within + more, better)
                || decided(worse, within, better + more)
        );
    }
}

#[test]
fn without_a_direction_either_way_counts_and_takes_one_more() {
    let found = |tally| judged(&[tally], false).remove(0).finding;
    assert_eq!(found((6, 0, 0)), Finding::Inconclusive, "two questions at once");
    assert_eq!([found((7, 0, 0)), found((0, 0, 7))], [Finding::Changed; 2]);
    assert_eq!(found((0, 6, 0)), Finding::Equivalent);
}

#[test]
fn names_of_replicas_are_those_of_their_cases() {
    assert_eq!(named("t_0_12.r3"), ("t_0_12", Some(3)));
    assert_eq!(named("t_0_12"), ("t_0_12", None));
    assert_eq!(named("t.rx"), ("t.rx", None));
}

#[test]
fn one_and_one_point_zero_are_the_same_number() {
    let key = |value: Value, without| {
        let params = Params::from([("n".to_owned(), value), ("build".to_owned(), Value::Str("base".into()))]);
        params_key(&params, without)
    };
    assert_eq!(key(Value::Int(1), None), key(Value::Float(1.0), None));
    assert_ne!(key(Value::Int(1), None), key(Value::Int(2), None));
    assert_ne!(key(Value::Int(1), None), key(Value::Str("1.0".into()), None));
    assert_ne!(key(Value::Int(1), None), key(Value::Int(1), Some("build")));
}

/// Times of one program, drawn: 2 % noise, now and then a slow run, and a machine that drifts.
struct Machine {
    state: u64,
    drift: f64,
}

impl Machine {
    fn draw(&mut self) -> f64 {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((word ^ (word >> 31)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let (radius, angle) = ((-2.0 * self.draw().ln()).sqrt(), std::f64::consts::TAU * self.draw());
        radius * angle.cos()
    }

    fn time(&mut self) -> f64 {
        let slow = if self.draw() < 0.07 { 1.0 - 0.15 * self.draw().ln() } else { 1.0 };
        (0.02 * self.normal()).exp() * slow * (1.0 + self.drift)
    }

    /// How `count` pairs of the same rounds fell, the second of each `slower` by that share.
    fn pairs(&mut self, count: u32, slower: f64, margin: f64) -> Vec<Tally> {
        let mut tally = Tally::default();
        let mut after = Vec::new();
        for round in 0..count {
            self.drift += 0.01 * self.normal();
            let (first, second) = (self.time(), self.time());
            // Every other round goes the other way.
            let (base, now) = if round % 2 == 0 { (first, second) } else { (second, first) };
            let rise = now * (1.0 + slower) / base - 1.0;
            match rise {
                worse if worse > margin => tally.worse += 1,
                better if better < -margin => tally.better += 1,
                _ => tally.within += 1,
            }
            after.push(tally);
        }
        after
    }
}

/// The share of 2,000 pairs of series that are called worse; `looks`: after each round, or once at the end.
fn called_worse(slower: f64, margin: f64, looks: bool, directed: bool) -> f64 {
    let mut called = 0;
    for seed in 0..2_000 {
        let mut machine = Machine { state: seed * 7_919 + 1, drift: 0.0 };
        let tallies = machine.pairs(30, slower, margin);
        let looked_at = if looks { &tallies[..] } else { &tallies[29..] };
        called += u32::from(looked_at.iter().any(|tally| {
            let line = Judged { line: 0, tally: *tally, directed, deltas: Vec::new() };
            line.changed(tally.statements()) >= 1.0 / ALPHA
        }));
    }
    f64::from(called) / 2_000.0
}

#[test]
fn identical_code_is_called_worse_in_at_most_a_twentieth() {
    for (margin, looks, directed) in
        [(0.0, false, true), (0.0, true, true), (0.0, true, false), (0.02, true, true)]
    {
        let share = called_worse(0.0, margin, looks, directed);
        assert!(share <= ALPHA, "margin {margin}, looks {looks}, directed {directed}: {share}");
    }
    // It is no gate that calls nothing.
    let found = called_worse(0.05, 0.0, true, true);
    assert!(found > 0.95, "{found}");
}

#[test]
fn of_many_lines_of_identical_code_any_is_called_in_at_most_a_twentieth() {
    let mut false_alarms = 0;
    for seed in 0..400 {
        let mut machine = Machine { state: seed * 104_729 + 3, drift: 0.0 };
        let lines: Vec<(u32, u32, u32)> = (0..10)
            .map(|_| machine.pairs(30, 0.0, 0.0)[29])
            .map(|tally| (tally.worse, tally.within, tally.better))
            .collect();
        false_alarms += u32::from(findings(&lines).contains(&Finding::Worse));
    }
    assert!(false_alarms <= 20, "{false_alarms} of 400");
}
