//! All that is there was read: whether everything that was announced is there, given away, declared, or stood for.

use super::*;

/// What became of the raw readings of a run that are not there as they were.
#[derive(Default)]
struct Fate {
    /// All that were made, and their sum.
    made: (u64, f64),
    /// Those that are there.
    present: (u64, f64),
    /// Those that must be there, and neither are nor were given away.
    missing: (u64, f64),
    /// Something of the run was given away, or may have been stored or not: then some of them may count twice, or not.
    is_vague: bool,
}

impl Ledger {
    pub(crate) fn settle(&mut self) {
        self.take_in_those_that_were_stored();
        let mut missing: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for made in self.made.values() {
            for (lane, range) in &made.lanes {
                let lost = range.clone().filter(|n| !self.present.contains(n) && !self.is_given(*n));
                let lost: Vec<u64> = lost.collect();
                if !lost.is_empty() {
                    missing.entry(format!("{}.{lane}", made.run)).or_default().extend(lost);
                }
            }
        }
        for (stream, missing) in &missing {
            self.settle_stream(stream, missing);
        }
        for (stream, last) in &self.ends {
            if let Some((_, seq)) = self.present_places.iter().find(|(of, seq)| of == stream && seq > last) {
                self.problems.push(format!("{stream} ends at {last}, and {seq} is there"));
            }
        }
        if self.mode.thins {
            self.settle_thinned();
        }
    }

    fn is_given(&self, n: u64) -> bool {
        self.places.get(&n).is_some_and(|place| self.given.contains(place))
    }

    /// An append of which something is there was stored, so all of it was.
    fn take_in_those_that_were_stored(&mut self) {
        let stored = |made: &Made| made.readings().any(|n| self.present.contains(&n));
        let stored: Vec<u64> = self.perhaps.iter().filter(|(_, made)| stored(made)).map(|(k, _)| *k).collect();
        for k in stored {
            self.made.extend(self.perhaps.remove(&k).map(|made| (k, made)));
        }
    }

    /// Numbers of a stream rise as its readings do, so the missing ones lie between those whose numbers are known: there
    /// must be as many given up.
    fn settle_stream(&mut self, stream: &str, missing: &[u64]) {
        let of_stream = self.places.iter().filter(|(_, (own, _))| own == stream);
        let known: BTreeMap<u64, u64> = of_stream.map(|(n, (_, seq))| (*n, *seq)).collect();
        let gaps = self.gaps.get(stream).into_iter().flatten();
        let mut given_up: BTreeSet<u64> = gaps.flat_map(|gap| gap.from..=gap.to).collect();
        for n in missing {
            // Numbers of readings begin at 1 in each stream.
            let after = known.range(..n).next_back().map_or(0, |(_, seq)| *seq);
            let before = known.range(n..).next().map_or(u64::MAX, |(_, seq)| *seq);
            let place = match known.get(n) {
                Some(seq) => given_up.contains(seq).then_some(*seq),
                None => given_up.range(after + 1..before).next().copied(),
            };
            match place {
                Some(place) => drop(given_up.remove(&place)),
                None => {
                    self.problems.push(format!("reading {n} of {stream} (between {after} and {before}) is lost"));
                    break;
                }
            }
        }
    }

    /// Each thinned reading is in an aggregate that is there, was given away, or was given up and declared; and no reading
    /// is there both as it was and in an aggregate.
    fn settle_thinned(&mut self) {
        self.settle_replacing_streams();
        let mut fates: BTreeMap<String, Fate> = BTreeMap::new();
        for (made, is_sure) in
            self.made.values().map(|made| (made, true)).chain(self.perhaps.values().map(|made| (made, false)))
        {
            let fate = fates.entry(made.run.clone()).or_default();
            fate.is_vague |= !is_sure;
            for n in made.lanes[0].1.clone() {
                let add = |to: &mut (u64, f64)| *to = (to.0 + 1, to.1 + n as f64);
                add(&mut fate.made);
                if self.present.contains(&n) {
                    add(&mut fate.present);
                } else if is_sure && !self.is_given(n) {
                    add(&mut fate.missing);
                }
            }
        }
        for (run, fate) in fates {
            self.problems.extend(self.settle_run(&run, &fate));
        }
    }

    /// Numbers of what stands for others have no gaps either, and what is said to stand for something is there.
    fn settle_replacing_streams(&mut self) {
        let replacing = self.gaps.values().flatten().filter_map(|gap| gap.by.clone());
        let mut last: BTreeMap<String, u64> = replacing.map(|stream| (stream, 1)).collect();
        for (stream, seq) in self.at_place.keys().filter(|(stream, _)| stream.contains(".thinned.")) {
            let last = last.entry(stream.clone()).or_default();
            *last = (*last).max(*seq);
        }
        for (stream, last) in last {
            let gaps: Vec<&Gap> = self.gaps.get(&stream).into_iter().flatten().collect();
            let is_known = |seq: u64| {
                let place = (stream.clone(), seq);
                let is_there = self.present_places.contains(&place) || self.given.contains(&place);
                is_there || gaps.iter().any(|gap| (gap.from..=gap.to).contains(&seq))
            };
            if let Some(seq) = (1..=last).find(|seq| !is_known(*seq)) {
                self.problems.push(format!("{stream} {seq} of {last}, which stands for thinned readings, is lost"));
            }
        }
    }

    fn settle_run(&self, run: &str, fate: &Fate) -> Option<String> {
        let (raw, thinned) = (format!("{run}.raw"), format!("{run}.thinned."));
        let of_run = |stream: &str| stream == raw || stream.starts_with(&thinned);
        let gaps = || self.gaps.iter().filter(|(stream, _)| of_run(stream));
        // What stood for others may have been given up too, and then nobody knows for how many.
        let evicted_coarse = gaps().any(|(stream, gaps)| *stream != raw && gaps.iter().any(|gap| !gap.is_thinned));
        let evicted: u64 = gaps().flat_map(|(_, gaps)| gaps).filter(|gap| !gap.is_thinned).map(|gap| gap.count).sum();
        let add = |(count, sum): (u64, f64), (more, by): (u64, f64)| (count + more, sum + by);
        let coarse = |wanted: &dyn Fn(&Place) -> bool| {
            let own = self.coarse.iter().filter(|(place, _)| place.0.starts_with(&thinned) && wanted(place));
            own.map(|(_, worth)| *worth).fold((0, 0.0), add)
        };
        let there = coarse(&|place| self.present_places.contains(place));
        let away = coarse(&|place| !self.present_places.contains(place) && self.given.contains(place));
        let (both, all) = (add(there, fate.present), fate.made);
        if both.0 > all.0 || both.1 > all.1 {
            return Some(format!("{run}: {both:?} readings are there, raw and in aggregates, of {all:?}"));
        }
        let stood_for = there.0 + away.0 + evicted;
        if !evicted_coarse && stood_for < fate.missing.0 {
            let missing = fate.missing.0;
            return Some(format!(
                "{run}: {missing} readings were thinned or given up, and only {stood_for} are stood for"
            ));
        }
        let is_exact = !fate.is_vague && evicted == 0 && !self.given.iter().any(|(stream, _)| of_run(stream));
        (is_exact && there != fate.missing).then(|| format!("{run}: {there:?} stand for {:?}", fate.missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong, according to the ledger, with what these children said.
    fn problems(mode: Mode, lines: &[&str]) -> Vec<String> {
        let (mut ledger, mut said) = (Ledger::new(mode), Said::default());
        for line in lines {
            match *line {
                "begin" => ledger.begin(),
                line => ledger.take(line, &mut said),
            }
            if *line == "drained" {
                ledger.settle();
            }
        }
        ledger.problems().to_vec()
    }

    /// Readings 1 to 4 as the raw records 1 to 4; the first three were thinned.
    const THINNED: [&str; 7] = [
        "open r 0 ",
        "append 1 1 2 1 4 0 0",
        "durable 1",
        "begin",
        "open s 1 1:2",
        "record r.raw 4 4",
        "gap s.raw 1 r.raw 1 3 3 thinned r.thinned.1.1",
    ];
    const NOTHING: [&str; 0] = [];
    const THINS: Mode = Mode { thins: true, ..Mode::PLAIN };

    #[test]
    fn thinned_readings_must_be_stood_for_exactly() {
        let with = |coarse: &[&'static str]| problems(THINS, &[&THINNED, coarse, &["drained"]].concat());
        assert_eq!(with(&["coarse r.thinned.1.1 1 n 3 6 0 []"]), NOTHING);
        assert!(with(&[])[0].contains("r.thinned.1.1 1 of 1"), "nothing stands for them");
        assert!(with(&["coarse r.thinned.1.1 1 n 2 6 0 []"])[0].contains("only 2 are stood for"));
        assert!(with(&["coarse r.thinned.1.1 1 n 3 7 0 []"])[0].contains("of (4, 10.0)"), "the sum is wrong");
        assert!(with(&["coarse r.thinned.1.1 1 n 4 6 0 []"])[0].contains("of (4, 10.0)"), "one is there twice");
        assert!(with(&["coarse r.thinned.1.1 2 n 3 6 0 []"])[0].contains("1 of 2"), "a number is missing");
    }

    #[test]
    fn what_was_said_about_the_time_of_a_cut_lets_off_and_promises_nothing() {
        let with = |late: &[&str]| {
            let (mut ledger, mut said) = (Ledger::default(), Said::default());
            let first = ["open r 0 ", "append 1 1 2 1 2 0 0", "durable 1"];
            first.iter().for_each(|line| ledger.take(line, &mut said));
            late.iter().for_each(|line| ledger.take_late(line, &mut said));
            ledger.begin();
            ["open s 1 1:2", "record r.raw 2 2", "drained"].iter().for_each(|line| ledger.take(line, &mut said));
            ledger.settle();
            ledger.problems().to_vec()
        };
        let given = ["append 2 2 3 3 1 0 0", "durable 2", "record r.raw 1 1", "given r.raw 1", "record r.raw 3 3"];
        assert_eq!(with(&given), NOTHING, "the first one was given away, the third may never have been stored");
        assert!(with(&["record r.raw 1 1"])[0].contains("reading 1 of r.raw"));
        assert!(with(&["panic p", "given r.raw 1"])[0].contains("a panic"));
    }

    #[test]
    fn what_was_acknowledged_without_being_written_must_have_been_delivered() {
        let mode = Mode { holds: true, ..Mode::PLAIN };
        let with = |more: &[&'static str]| {
            let first = ["open r 0 ", "append 1 0 2 1 1 0 0", "append 2 0 3 2 1 0 0", "record r.raw 1 1"];
            let last = ["begin", "open s 0 ", "drained"];
            problems(mode, &[&first, more, &last].concat())
        };
        assert_eq!(with(&[]), NOTHING, "nothing was announced");
        assert_eq!(with(&["given r.raw 1", "durable 1"]), NOTHING);
        assert!(with(&["durable 1"])[0].contains("reading 1 of r.raw"));
        assert!(with(&["given r.raw 1", "durable 2"])[0].contains("reading 2 of r.raw"));
        // The message of append 3 has the packet identifier of append 1.
        let again = ["append 3 0 2 3 1 0 0", "record r.raw 3 3", "given r.raw 3", "record r.raw 2 2", "given r.raw 2"];
        let stale = [&["given r.raw 1"], &again[..], &["durable 3", "begin", "open s 0 1:2"]].concat();
        assert!(with(&stale)[0].contains("3 used its packet identifier"));
        assert!(with(&["record r.raw 1 2"])[0].contains("r.raw 1 was"), "a number stands for two records");
    }
}
