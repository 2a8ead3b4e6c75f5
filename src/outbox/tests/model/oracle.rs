//! What must hold: the fate of each record, and what is said of it.

use super::*;
use crate::reading::{Gap, Origin};

/// What one record of ours went through.
#[derive(Clone, Debug)]
pub(super) struct Fate {
    pub(super) run: usize,
    pub(super) lane: Lane,
    /// The append number that makes it durable.
    pub(super) append: u64,
    pub(super) durable: bool,
    /// Stream and number, once it was given.
    pub(super) place: Option<(String, u64)>,
    /// In which run it was delivered last.
    pub(super) delivered: Option<usize>,
}

/// An aggregate that stands for thinned readings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coarse {
    /// Of the measurement that carries the numbers.
    is_of_numbers: bool,
    count: u64,
    sum: f64,
    delivered: bool,
    /// In a run that crashed: it may be thinned again, with others.
    pub(super) delivered_at_crash: bool,
}

impl Coarse {
    fn worth(&self) -> Worth {
        Worth { count: self.count, sum: self.sum }
    }
}

/// How many readings, and the sum of their numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Worth {
    count: u64,
    sum: f64,
}

impl Worth {
    fn of(n: i64) -> Self {
        Self { count: 1, sum: n as f64 }
    }

    fn add(&mut self, others: impl Iterator<Item = Self>) {
        for other in others {
            self.count += other.count;
            self.sum += other.sum;
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) fates: BTreeMap<i64, Fate>,
    /// By stream: the numbers that were given, whatever they were.
    pub(super) given: BTreeMap<String, BTreeSet<u64>>,
    pub(super) gaps: Vec<Gap>,
    /// What stands for thinned readings, by stream and number.
    pub(super) thinned: BTreeMap<(String, u64), Coarse>,
    /// Readings that were thinned, according to the counter: at most.
    pub(super) thinned_most: u64,
    /// Records are given before they are stored.
    pub(super) holds: bool,
    pub(super) ends: Vec<(String, u64)>,
    /// Names of the runs, by number.
    pub(super) runs: Vec<String>,
    /// By lane: given up according to the counters; at least and at most, as a crash may fall between deed and count.
    pub(super) evicted: [(u64, u64); 3],
    /// Delivered in a run that crashed: may be given again, or be given up and counted.
    pub(super) delivered_at_crash: HashSet<i64>,
    /// The journal's last piece: appended, and announced durable.
    pub(super) journal: (u64, u64),
}

impl Model {
    pub(super) fn announced(&mut self, run: usize, durable: u64) {
        for fate in self.fates.values_mut().filter(|fate| fate.run == run && fate.append <= durable) {
            fate.durable = true;
        }
    }

    /// A record was given by the reader.
    pub(super) fn give(&mut self, stored: &Stored, at: usize) -> Checked {
        let (stream, seq) = (stored.stream.to_string(), stored.first_seq + at as u64);
        self.given.entry(stream.clone()).or_default().insert(seq);
        let n = match &stored.batch.records[at] {
            Record::Reading(reading) => match stored.batch.fields_of(reading)[0].value {
                Value::Number(n) => n as i64,
                _ => return Err(TestCaseError::fail("not a number of ours")),
            },
            Record::Aggregate(aggregate) if aggregate.origin == Origin::Thinned => {
                hold!(stream.contains(".thinned."), "what was thinned is in {stream}");
                let coarse = Coarse {
                    is_of_numbers: &*aggregate.measurement.name == "m0",
                    count: aggregate.count,
                    sum: aggregate.sum.unwrap_or(f64::NAN),
                    delivered: false,
                    delivered_at_crash: false,
                };
                let known = self.thinned.entry((stream.clone(), seq)).or_insert(coarse);
                hold!((known.count, known.sum) == (coarse.count, coarse.sum), "{stream} {seq} is not what it was");
                return Ok(());
            }
            Record::Aggregate(aggregate) => aggregate.start_ms,
            Record::Gap(gap) => {
                let known = ["evicted", "expired", "thinned"].contains(&&*gap.cause);
                hold!(known, "{gap:?}");
                hold!((&*gap.cause == "thinned") == gap.replaced_by.is_some(), "{gap:?}");
                if !self.gaps.contains(gap) {
                    self.gaps.push((**gap).clone());
                }
                return Ok(());
            }
            Record::StreamEnd(end) => {
                self.ends.push((end.stream.to_string(), end.last));
                return Ok(());
            }
            other => return Err(TestCaseError::fail(format!("a record that nobody appended: {other:?}"))),
        };
        let Some(fate) = self.fates.get_mut(&n) else {
            return Err(TestCaseError::fail(format!("{n} was never appended")));
        };
        let place = (stream, seq);
        hold!(place.0 == format!("{}.{}", self.runs[fate.run], fate.lane.as_str()), "{n} is in {place:?}");
        if let Some(before) = &fate.place {
            hold!(*before == place, "{n} was given as {before:?} and as {place:?}");
        }
        fate.place = Some(place);
        Ok(())
    }

    /// Of the records that were announced, those that are neither delivered nor counted as given up.
    pub(super) fn waiting_at_most(&self) -> u64 {
        self.fates.values().filter(|fate| fate.delivered.is_none()).count() as u64
    }

    /// Those numbers of a stream were delivered.
    pub(super) fn delivered(&mut self, stream: &str, seqs: &HashSet<u64>) {
        let run = Some(self.runs.len() - 1);
        for fate in self.fates.values_mut() {
            if fate.place.as_ref().is_some_and(|(of, seq)| of == stream && seqs.contains(seq)) {
                fate.delivered = run;
            }
        }
        let of_stream = self.thinned.iter_mut().filter(|((of, seq), _)| of == stream && seqs.contains(seq));
        of_stream.for_each(|(_, coarse)| coarse.delivered = true);
    }

    /// What the current run delivered may be given again, perhaps in another form.
    pub(super) fn forget_deliveries(&mut self) {
        let run = Some(self.runs.len() - 1);
        let delivered = self.fates.iter().filter(|(_, fate)| fate.delivered == run).map(|(n, _)| *n);
        self.delivered_at_crash.extend(delivered);
        self.thinned.values_mut().for_each(|coarse| coarse.delivered_at_crash |= coarse.delivered);
    }

    /// What stands for readings is worth as much as they were.
    fn check_thinned(&self) -> Checked {
        for ((stream, seq), coarse) in &self.thinned {
            let declared = self.gaps.iter().any(|gap| *gap.stream == **stream && (gap.from..=gap.to).contains(seq));
            hold!(coarse.delivered || declared, "{stream} {seq} was given, not delivered and not declared");
        }
        let streams: BTreeSet<&str> = self.given.keys().map(String::as_str).collect();
        let declared: BTreeSet<&str> = self.gaps.iter().map(|gap| &*gap.stream).collect();
        for gap in &self.gaps {
            let Some(by) = &gap.replaced_by else { continue };
            hold!(streams.contains(&**by) || declared.contains(&**by), "nothing came of {by}: {gap:?}");
        }
        let raw = || self.fates.iter().filter(|(_, fate)| fate.lane == Lane::Raw);
        let of_numbers = || self.thinned.values().filter(|coarse| coarse.is_of_numbers);
        let mut came = Worth::default();
        came.add(raw().filter(|(_, fate)| fate.delivered.is_some()).map(|(n, _)| Worth::of(*n)));
        came.add(of_numbers().filter(|coarse| coarse.delivered).map(Coarse::worth));
        // What was not announced before a crash may be lost; what was delivered may have come again in another form: each
        // once, because it is gone in its old form then.
        let (mut least, mut most) = (Worth::default(), Worth::default());
        least.add(raw().filter(|(_, fate)| fate.durable).map(|(n, _)| Worth::of(*n)));
        most.add(raw().map(|(n, _)| Worth::of(*n)));
        most.add(raw().filter(|(n, _)| self.delivered_at_crash.contains(n)).map(|(n, _)| Worth::of(*n)));
        most.add(of_numbers().filter(|coarse| coarse.delivered_at_crash).map(Coarse::worth));
        hold!(came.count <= most.count && came.sum <= most.sum, "{came:?} came, and {most:?} is all that there was");
        let nothing_given_up = self.evicted[Lane::Raw.index()].1 == 0;
        let all_there = came.count >= least.count && came.sum >= least.sum;
        hold!(!nothing_given_up || all_there, "{came:?} came, {least:?} was announced, and nothing was given up");
        Ok(())
    }

    /// When all has been read and delivered.
    pub(super) fn check(&self) -> Checked {
        // Numbers of a stream have no gaps, and follow the order of the appends.
        let declared = self.gaps.iter().map(|gap| gap.stream.to_string());
        let streams: BTreeSet<String> = self.given.keys().cloned().chain(declared).collect();
        for stream in &streams {
            let given = self.given.get(stream).cloned().unwrap_or_default();
            let mut known = given.clone();
            let of_stream = self.gaps.iter().filter(|gap| *gap.stream == **stream);
            of_stream.for_each(|gap| known.extend(gap.from..=gap.to));
            let last = known.last().copied().unwrap_or(0);
            let missing = (1..=last).find(|number| !known.contains(number));
            hold!(missing.is_none(), "{stream}: {missing:?} of {last} was neither given nor declared");
            // What was given before it was stored may lie beyond.
            for (_, last) in self.ends.iter().filter(|(of, _)| of == stream && !self.holds) {
                let beyond = given.last().filter(|number| *number > last);
                hold!(beyond.is_none(), "{stream} ended at {last}, and {beyond:?} was given");
            }
        }
        for (run, name) in self.runs.iter().enumerate() {
            for lane in Lane::ALL {
                let of_lane = self.fates.iter().filter(|(_, fate)| fate.run == run && fate.lane == lane);
                let places = of_lane.clone().filter_map(|(n, fate)| Some((n, fate.place.as_ref()?.1)));
                let places: Vec<_> = places.collect();
                let disordered = places.windows(2).find(|pair| pair[0].1 >= pair[1].1);
                hold!(disordered.is_none(), "the order of {name}.{} changed: {disordered:?}", lane.as_str());
                // What was never given was given up, and lies where its neighbours leave room.
                let stream = format!("{name}.{}", lane.as_str());
                let of_stream = self.gaps.iter().filter(|gap| *gap.stream == *stream);
                let declared: BTreeSet<u64> = of_stream.flat_map(|gap| gap.from..=gap.to).collect();
                let lost = of_lane.clone().filter(|(_, fate)| fate.durable && fate.place.is_none()).count();
                let given = self.given.get(&stream).cloned().unwrap_or_default();
                let room = declared.difference(&given).count();
                hold!(lost <= room, "{stream}: {lost} announced and never given, {room} declared and never given");
                let undelivered = of_lane.filter(|(_, fate)| fate.durable && fate.delivered.is_none());
                let undeclared: Vec<_> = undelivered
                    .filter(|(_, fate)| fate.place.as_ref().is_some_and(|(_, seq)| !declared.contains(seq)))
                    .collect();
                hold!(undeclared.is_empty(), "given, not delivered, not declared: {undeclared:?}");
            }
        }
        for lane in Lane::ALL {
            let (least, mut most) = self.evicted[lane.index()];
            let thins = lane == Lane::Raw && self.thinned_most > 0;
            if thins {
                most += self.thinned_most;
            }
            let of_lane = || self.fates.iter().filter(|(_, fate)| fate.lane == lane);
            let gone = of_lane().filter(|(_, fate)| fate.durable && fate.delivered.is_none()).count() as u64;
            let perhaps = of_lane().filter(|(n, fate)| {
                let unannounced = !fate.durable && fate.delivered.is_none();
                unannounced || self.delivered_at_crash.contains(n)
            });
            let perhaps = perhaps.count() as u64;
            hold!(gone <= most, "{gone} are gone, and {most} were counted in lane {}", lane.as_str());
            // What stands for thinned readings is in the raw lane too, and counts when it is given up.
            hold!(thins || least <= gone + perhaps, "{least} counted, {gone} to {} are gone", gone + perhaps);
        }
        self.check_thinned()
    }
}
