//! What the children said, and whether what is found later agrees with it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::writer::RECEIPTS_MAX;

/// An append that a child made.
#[derive(Clone, Debug)]
struct Made {
    /// The run's name, which the streams bear.
    run: String,
    raw: std::ops::Range<u64>,
    aggregates: std::ops::Range<u64>,
}

/// Everything that is known. What is wrong is said by [`Ledger::problems`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    run: String,
    /// Appends that are durable, were announced or may have become durable.
    made: BTreeMap<u64, Made>,
    announced: u64,
    /// Readings of appends that were never announced, and that a later start did not find.
    void: BTreeSet<u64>,
    /// Where each reading stands.
    places: HashMap<u64, (String, u64)>,
    /// What stands at each place: a reading, or 0 for what declares something.
    at_place: HashMap<(String, u64), u64>,
    given: BTreeSet<(String, u64)>,
    /// By stream: what is given up.
    gaps: BTreeMap<String, BTreeSet<(u64, u64)>>,
    /// What the drain that is going on has read.
    present: BTreeSet<u64>,
    problems: Vec<String>,
    /// A message, for the figures.
    pub(crate) announcements: u64,
    opens: u64,
}

/// How a child ended, by what it said.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Said {
    pub(crate) open: bool,
    pub(crate) begun: bool,
    pub(crate) refused: bool,
    pub(crate) drained: bool,
    pub(crate) closed: bool,
    pub(crate) panicked: bool,
}

impl Ledger {
    /// A child begins; `draining` forgets what the drain before read.
    pub(crate) fn begin(&mut self) {
        self.present.clear();
    }

    /// Takes in a line of a child.
    pub(crate) fn take(&mut self, line: &str, said: &mut Said) {
        let Some((word, rest)) = line.split_once(' ') else {
            match line {
                "begun" => said.begun = true,
                "closed" => said.closed = true,
                "drained" => said.drained = true,
                _ => self.problems.push(format!("the child said: {line}")),
            }
            return;
        };
        let words: Vec<&str> = rest.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
        match word {
            "open" => {
                said.open = true;
                self.open(words[0], number(1), words.get(2).copied().unwrap_or_default());
            }
            "append" => {
                let (first, raw, aggregates) = (number(1), number(2), number(3));
                let raw = first..first + raw;
                let aggregates = raw.end..raw.end + aggregates;
                self.made.insert(number(0), Made { run: self.run.clone(), raw, aggregates });
            }
            "durable" => {
                self.announcements += u64::from(self.announced < number(0));
                self.announced = self.announced.max(number(0));
            }
            "record" => self.see(words[0], number(1), number(2)),
            "given" => drop(self.given.insert((words[0].to_owned(), number(1)))),
            "gap" => {
                self.stands(words[0], number(1), 0);
                self.gaps.entry(words[2].to_owned()).or_default().insert((number(3), number(4)));
                if words[6] != "evicted" {
                    self.problems.push(format!("damage where there is none: {line}"));
                }
            }
            "end" => {
                self.stands(words[0], number(1), 0);
                let beyond = self.at_place.keys().find(|(stream, seq)| stream == words[2] && *seq > number(3));
                if let Some((stream, seq)) = beyond {
                    self.problems.push(format!("{stream} ends at {} and has {seq}", number(3)));
                }
            }
            "counts" => {
                if (number(0), number(1)) != (0, 0) {
                    self.problems.push(format!("damage where there is none: {line}"));
                }
            }
            "panic" => {
                said.panicked = true;
                self.problems.push(format!("a panic: {rest}"));
            }
            "refused" => {
                said.refused = true;
                self.problems.push(format!("it did not start: {rest}"));
            }
            _ => self.problems.push(format!("the child said: {line}")),
        }
    }

    /// A child has opened the outbox: `at` is the last append of the state that it found.
    fn open(&mut self, run: &str, at: u64, receipts: &str) {
        self.opens += 1;
        run.clone_into(&mut self.run);
        if at < self.announced {
            self.problems.push(format!("append {} was announced, the state goes to {at}", self.announced));
        }
        let lost = self.made.split_off(&(at + 1));
        self.void.extend(lost.into_values().flat_map(|made| made.raw.chain(made.aggregates)));
        // What is found after a start counts from then on.
        self.announced = self.announced.max(at);
        let found: Vec<u64> = receipts.split(',').filter_map(|word| word.parse().ok()).collect();
        let wanted: Vec<u64> = (at.saturating_sub(RECEIPTS_MAX as u64) + 1..=at).collect();
        if found != wanted {
            self.problems.push(format!("receipts are {found:?} instead of {wanted:?}"));
        }
    }

    fn stands(&mut self, stream: &str, seq: u64, n: u64) {
        let before = self.at_place.insert((stream.to_owned(), seq), n);
        if before.is_some_and(|before| before != n) {
            self.problems.push(format!("{stream} {seq} was {before:?} and is {n}"));
        }
    }

    fn see(&mut self, stream: &str, seq: u64, n: u64) {
        self.present.insert(n);
        self.stands(stream, seq, n);
        let place = (stream.to_owned(), seq);
        if self.places.insert(n, place.clone()).is_some_and(|before| before != place) {
            self.problems.push(format!("reading {n} is at two places, one of them {stream} {seq}"));
        }
        if self.void.contains(&n) {
            self.problems.push(format!("reading {n} was lost with its append, and is there now"));
        }
    }

    /// All that is there was read: whether everything that was announced is there, given away or declared.
    pub(crate) fn settle(&mut self) {
        let mut missing: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for made in self.made.values() {
            for (lane, range) in [("raw", &made.raw), ("aggregate", &made.aggregates)] {
                let stream = format!("{}.{lane}", made.run);
                for n in range.clone().filter(|n| !self.present.contains(n)) {
                    let given = self.places.get(&n).is_some_and(|place| self.given.contains(place));
                    if !given {
                        missing.entry(stream.clone()).or_default().push(n);
                    }
                }
            }
        }
        for (stream, missing) in missing {
            self.settle_stream(&stream, &missing);
        }
    }

    /// Numbers of a stream rise as its readings do, so the missing ones lie between those whose numbers are known: there
    /// must be as many given up.
    fn settle_stream(&mut self, stream: &str, missing: &[u64]) {
        let of_stream = self.places.iter().filter(|(_, (own, _))| own == stream);
        let known: BTreeMap<u64, u64> = of_stream.map(|(n, (_, seq))| (*n, *seq)).collect();
        let gaps = self.gaps.get(stream).cloned().unwrap_or_default();
        let mut given_up: BTreeSet<u64> = gaps.into_iter().flat_map(|(from, to)| from..=to).collect();
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

    /// Something is wrong that no child said.
    pub(crate) fn complain(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// What is wrong so far.
    pub(crate) fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Forgets problems that were to be expected.
    pub(crate) fn forgive(&mut self, expected: impl Fn(&str) -> bool) {
        self.problems.retain(|problem| !expected(problem));
    }
}
