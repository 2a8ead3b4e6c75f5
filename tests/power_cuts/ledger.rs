//! What the children said, and whether what is found later agrees with it. [`settle`]: what must be there in the end.

mod settle;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use crate::made::NUMBER;
use crate::modes::Mode;
use crate::writer::RECEIPTS_MAX;

/// A stream and a number in it.
type Place = (String, u64);

/// An append that a child made.
#[derive(Clone, Debug)]
struct Made {
    /// The run's name, which the streams bear.
    run: String,
    /// Its piece of journal, if it brought one.
    piece: Option<u64>,
    packet_id: u64,
    /// The lanes' names and readings.
    lanes: [(&'static str, Range<u64>); 3],
}

impl Made {
    fn readings(&self) -> impl Iterator<Item = u64> + use<> {
        self.lanes.clone().into_iter().flat_map(|(_, range)| range)
    }
}

/// Numbers of a stream that are given up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Gap {
    from: u64,
    to: u64,
    count: u64,
    is_thinned: bool,
    /// The stream that stands for them.
    by: Option<String>,
}

/// Everything that is known. What is wrong is said by [`Ledger::problems`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    mode: Mode,
    run: String,
    /// Appends that are durable, were announced or may have become durable.
    made: BTreeMap<u64, Made>,
    /// Appends without a journal that were never announced when their run ended: stored or not, but not in part.
    perhaps: BTreeMap<u64, Made>,
    announced: u64,
    /// Readings of appends that were never announced, and that a later start did not find.
    void: BTreeSet<u64>,
    /// Where each reading stands.
    places: HashMap<u64, Place>,
    /// What stands at each place: a reading, a hash of an aggregate, or 0 for what declares something.
    at_place: HashMap<Place, u64>,
    given: BTreeSet<Place>,
    /// By stream: what is given up.
    gaps: BTreeMap<String, BTreeSet<Gap>>,
    /// By stream: its last number, where a run ended without saying so.
    ends: BTreeMap<String, u64>,
    /// What stands for thinned readings: how many numbers of ours, and their sum.
    coarse: HashMap<Place, (u64, f64)>,
    /// Readings that the drain that is going on has read, and places of whatever it has read.
    present: BTreeSet<u64>,
    present_places: HashSet<Place>,
    problems: Vec<String>,
    /// For the figures: how often something was announced that was not before …
    pub(crate) announcements: u64,
    /// … and records that were delivered and never written.
    pub(crate) unwritten: u64,
}

/// How a child ended, by what it said.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Said {
    pub(crate) begun: bool,
    pub(crate) drained: bool,
    pub(crate) closed: bool,
}

impl Ledger {
    pub(crate) fn new(mode: Mode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// A child begins: what the drain before has read is forgotten.
    pub(crate) fn begin(&mut self) {
        self.present.clear();
        self.present_places.clear();
    }

    /// Takes in a line of a child.
    pub(crate) fn take(&mut self, line: &str, said: &mut Said) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
        match word {
            "begun" => said.begun = true,
            "closed" => said.closed = true,
            "drained" => said.drained = true,
            "open" => self.open(words[0], number(1), words.get(2).copied().unwrap_or_default()),
            "append" => self.append([0, 1, 2, 3, 4, 5, 6].map(number)),
            "durable" => {
                self.announcements += u64::from(self.announced < number(0));
                self.announced = self.announced.max(number(0));
            }
            "unwritten" => self.unwritten += number(0),
            "record" => self.see(words[0], number(1), number(2)),
            "coarse" => self.see_coarse(&words),
            "given" => drop(self.given.insert((words[0].to_owned(), number(1)))),
            "gap" => self.see_gap(&words, line),
            "end" => self.see_end(&words),
            "counts" => {
                if (number(0), number(1)) != (0, 0) {
                    self.problems.push(format!("damage where there is none: {line}"));
                }
            }
            "panic" => self.problems.push(format!("a panic: {rest}")),
            "refused" => self.problems.push(format!("it did not start: {rest}")),
            _ => self.problems.push(format!("the child said: {line}")),
        }
    }

    /// The same of a line that was said about the time of a cut, before it or in a time that never came. What it says of
    /// records that were given away or given up may be true, so nothing more is asked of them; it promises nothing.
    pub(crate) fn take_late(&mut self, line: &str, said: &mut Said) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
        let place = || (words.get(1).copied().unwrap_or_default().to_owned(), number(2));
        match words[0] {
            "durable" | "unwritten" | "end" => {}
            "record" => drop(self.places.entry(number(3)).or_insert_with(place)),
            "coarse" if words.get(3) == Some(&NUMBER) => {
                let sum = words.get(5).and_then(|word| word.parse().ok()).unwrap_or(f64::NAN);
                self.coarse.entry(place()).or_insert((number(4), sum));
            }
            "coarse" => {}
            "gap" => self.add_gap(&words[1..]),
            _ => self.take(line, said),
        }
    }

    fn append(&mut self, [k, piece, packet_id, first, raw, aggregates, alarms]: [u64; 7]) {
        let raw = first..first + raw;
        let aggregates = raw.end..raw.end + aggregates;
        let alarms = aggregates.end..aggregates.end + alarms;
        let lanes = [("raw", raw), ("aggregate", aggregates), ("alarm", alarms)];
        let made = Made { run: self.run.clone(), piece: (piece > 0).then_some(piece), packet_id, lanes };
        self.made.insert(k, made);
    }

    /// A child has opened the outbox: `at` is the last piece of journal that it found.
    fn open(&mut self, run: &str, at: u64, receipts: &str) {
        run.clone_into(&mut self.run);
        let announced = self.made.range(..=self.announced).filter_map(|(_, made)| made.piece).max().unwrap_or(0);
        if at < announced {
            self.problems.push(format!("piece {announced} was announced, the state goes to {at}"));
        }
        let pair = |text: &str| {
            let (hash, packet_id) = text.split_once(':')?;
            Some((hash.parse::<u64>().ok()?, packet_id.parse::<u64>().ok()?))
        };
        let mut receipts: Vec<(u64, u64)> = receipts.split(',').filter_map(pair).collect();
        self.check_stale(&receipts);
        // Those of no append: a pair of them says that the broker uses identifiers again.
        receipts.retain(|(hash, _)| *hash > 0);
        // Appends become durable in their order: whatever shows that one is, shows it of all before. What is found after
        // a start counts from then on.
        let found = self.made.iter().filter(|(_, made)| made.piece.is_some_and(|piece| piece <= at)).map(|(k, _)| *k);
        let received = receipts.iter().map(|(k, _)| *k).filter(|k| self.made.contains_key(k));
        self.announced = found.chain(received).fold(self.announced, u64::max);
        for (k, made) in self.made.split_off(&(self.announced + 1)) {
            if made.piece.is_some() {
                self.void.extend(made.readings());
            } else {
                self.perhaps.insert(k, made);
            }
        }
        let hashes: Vec<u64> = receipts.iter().map(|(k, _)| *k).collect();
        if self.mode.holds {
            let unknown: Vec<&u64> = hashes.iter().filter(|k| !self.made.contains_key(k)).collect();
            if !unknown.is_empty() {
                self.problems.push(format!("receipts of appends that are not there: {unknown:?}"));
            }
            return;
        }
        let mut wanted: Vec<u64> = self.made.keys().rev().take(RECEIPTS_MAX).copied().collect();
        wanted.reverse();
        if hashes != wanted {
            self.problems.push(format!("receipts are {hashes:?} instead of {wanted:?}"));
        }
    }

    /// Once a message was acknowledged, no receipt of an earlier one with its packet identifier may be the newest that is
    /// there: what the broker sends with that identifier would be taken for what it sent before.
    fn check_stale(&mut self, receipts: &[(u64, u64)]) {
        let newest: HashMap<u64, u64> = receipts.iter().map(|(hash, packet_id)| (*packet_id, *hash)).collect();
        // Where one identifier is there twice, a start recognises none of them.
        if newest.len() < receipts.len() {
            return;
        }
        let announced = || self.made.range(..=self.announced).rev().take(10 * RECEIPTS_MAX);
        for (packet_id, hash) in newest {
            let later = announced().find(|(k, made)| **k > hash && made.packet_id == packet_id);
            if let Some((k, _)) = later {
                let problem = format!("a receipt of append {hash} is there, and {k} used its packet identifier");
                self.problems.push(problem);
                return;
            }
        }
    }

    fn stands(&mut self, stream: &str, seq: u64, what: u64) {
        let place = (stream.to_owned(), seq);
        let before = self.at_place.insert(place.clone(), what);
        if before.is_some_and(|before| before != what) {
            self.problems.push(format!("{stream} {seq} was {before:?} and is {what}"));
        }
        self.present_places.insert(place);
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

    /// An aggregate that stands for thinned readings: stream, number, measurement, count, sum, and more.
    fn see_coarse(&mut self, words: &[&str]) {
        let [stream, seq, measurement, count, sum, ..] = *words else { return };
        let (Ok(seq), Ok(count), Ok(sum)) = (seq.parse(), count.parse(), sum.parse()) else {
            self.problems.push(format!("an aggregate that says nothing: {words:?}"));
            return;
        };
        let mut hasher = DefaultHasher::new();
        words[2..].hash(&mut hasher);
        self.stands(stream, seq, hasher.finish() | 1 << 63);
        if measurement == NUMBER {
            self.coarse.insert((stream.to_owned(), seq), (count, sum));
        }
    }

    /// Stream and number of the declaration; then the stream that it is about, from, to, count, cause, what stands for it.
    fn see_gap(&mut self, words: &[&str], line: &str) {
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
        self.stands(words[0], number(1), 0);
        let (of, cause, by) = (words[2], words[6], words[7]);
        let is_thinned = cause == "thinned";
        let expected = if is_thinned { self.mode.thins && by != "-" } else { cause == "evicted" && by == "-" };
        if !expected {
            self.problems.push(format!("damage where there is none: {line}"));
        }
        if is_thinned && !of.ends_with(".raw") && !of.contains(".thinned.") {
            self.problems.push(format!("what is not raw was thinned: {line}"));
        }
        self.add_gap(words);
    }

    fn add_gap(&mut self, words: &[&str]) {
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
        let (of, is_thinned, by) = (words[2], words[6] == "thinned", words[7]);
        let by = is_thinned.then(|| by.to_owned());
        let gap = Gap { from: number(3), to: number(4), count: number(5), is_thinned, by };
        self.gaps.entry(of.to_owned()).or_default().insert(gap);
    }

    fn see_end(&mut self, words: &[&str]) {
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
        self.stands(words[0], number(1), 0);
        let (stream, last) = (words[2], number(3));
        if self.ends.insert(stream.to_owned(), last).is_some_and(|before| before != last) {
            self.problems.push(format!("{stream} ends twice, once at {last}"));
        }
        // What was sent before it was stored may lie beyond.
        let beyond = || self.at_place.keys().find(|(of, seq)| of == stream && *seq > last);
        if let Some((_, seq)) = beyond().filter(|_| !self.mode.holds) {
            self.problems.push(format!("{stream} ends at {last} and has {seq}"));
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

    /// Readings that aggregates stand for, as far as it was declared.
    pub(crate) fn thinned(&self) -> u64 {
        let raw = self.gaps.iter().filter(|(stream, _)| stream.ends_with(".raw"));
        raw.flat_map(|(_, gaps)| gaps).filter(|gap| gap.is_thinned).map(|gap| gap.count).sum()
    }

    /// Records of the alarm lane that were read.
    pub(crate) fn alarms(&self) -> u64 {
        self.at_place.keys().filter(|(stream, _)| stream.ends_with(".alarm")).count() as u64
    }
}
