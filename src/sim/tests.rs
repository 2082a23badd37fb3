//! What runs every day: each small study crashed everywhere.

use std::time::Instant;

use super::hunt::{Figures, Hunt};

fn report(name: &str, figures: &Figures, began: Instant) {
    println!("{name}: {figures}, in {:.1} s", began.elapsed().as_secs_f64());
    for (seed, broken) in &figures.found {
        println!("PITON_SIM_SEED={seed} cargo test --lib sim::tests::one_seed -- --nocapture   # {broken}");
    }
    assert!(figures.found.is_empty());
}

fn everywhere(name: &str) {
    let began = Instant::now();
    let mut hunt = Hunt::named(name).unwrap();
    if hunt.runs() {
        hunt.depth = 2;
        hunt.most_images = 300;
        hunt.crash_everywhere(1, None);
    }
    report(name, &hunt.figures, began);
}

#[test]
fn two_stages() {
    everywhere("two_stages");
}
