use flypg_sim::*;
#[test]
fn one() {
    let Ok(seed) = std::env::var("SEED") else { return };
    flypg_core::mutant::set(
        &std::env::var("OFF").unwrap_or_default().split(',').filter(|s| !s.is_empty()).collect::<Vec<_>>(),
    );
    let out = tell(seed.parse().unwrap());
    println!("{}", out.story);
    println!("{:?} acked {} events {} held {:?}", out.violation, out.acknowledged, out.events, out.held);
}
#[test]
fn many() {
    let Ok(count) = std::env::var("COUNT") else { return };
    let off = std::env::var("OFF").unwrap_or_default();
    let off: Vec<_> = off.split(',').filter(|s| !s.is_empty()).collect();
    let start = std::time::Instant::now();
    let first = std::env::var("FIRST").map_or(0, |s| s.parse().unwrap());
    let all = sweep(first, count.parse().unwrap(), &off, false);
    println!(
        "{} runs in {:?}, {} acks, {} reigns, {} events",
        all.runs,
        start.elapsed(),
        all.acknowledged,
        all.reigns,
        all.events
    );
    for (why, seeds) in &all.held {
        println!("held {why}: {} e.g. {:?}", seeds.len(), &seeds[..seeds.len().min(5)]);
    }
    let mut f = all.failures.clone();
    f.sort_by_key(|(seed, words)| (words.starts_with("I16"), *seed));
    println!("{} failures", f.len());
    for x in f.iter().take(25) {
        println!("{x:?}");
    }
}

#[test]
fn kills() {
    let Ok(rules) = std::env::var("KILL") else { return };
    let count = std::env::var("COUNT").map_or(1000, |s| s.parse().unwrap());
    for rule in rules.split(',') {
        let start = std::time::Instant::now();
        match kill(rule, count) {
            Some(k) => println!(
                "{rule}: killed by seed {} ({}) in {:?}",
                k.seed,
                format!("{}: {}", k.violation.invariant, k.violation.words).chars().take(110).collect::<String>(),
                start.elapsed()
            ),
            None => println!("{rule}: SURVIVES {count} in {:?}", start.elapsed()),
        }
    }
}
