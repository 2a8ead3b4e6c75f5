//! Who reports what: devices, and the channels (measurements) of each, with all state that rules keep for them.
//!
//! Names are looked up by the address of the interned name first, which costs a few nanoseconds, and by their letters
//! only when a name comes from another interner. That is sound because the table holds the very `Arc` whose address it
//! knows: no other name can come to lie there.

use std::sync::Arc;

use foldhash::HashMap;
use smallvec::SmallVec;

use super::filter;
use super::window::Series;
use crate::reading::{Measurement, Name};

/// A number that the journal has not given yet.
pub(super) const UNNAMED: u32 = u32::MAX;

/// A device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) name: Name,
    /// The same name, as it was last looked up.
    alias: Name,
    /// The profile of its last windowed value: the name, and the place among all of them.
    pub(super) profile: (Name, u32),
    /// The greatest time of its windowed values.
    pub(super) watermark: i64,
    /// No window closes, and none settles, before the watermark gets here.
    pub(super) next_close: i64,
    /// The greatest end of a window that has closed.
    pub(super) closed_max: i64,
    /// Windows that are open, over all channels.
    pub(super) open: u32,
    /// When its last windowed value came, by the clock that never steps.
    pub(super) windowed_ms: u64,
    /// When its last reading came.
    pub(super) heard_ms: u64,
    /// Its number in the journal.
    pub(super) id: u32,
    /// The profile that the journal has it at.
    pub(super) journal_profile: u32,
    pub(super) channels: Vec<Channel>,
}

/// A measurement of a device.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) measurement: Arc<Measurement>,
    /// The same, as it was last looked up.
    alias: Arc<Measurement>,
    /// Which rules it meets.
    pub(super) plan: u32,
    /// Its number in the journal.
    pub(super) id: u32,
    /// Whether it is one of the series that are limited: it has the state that its plan asks for.
    pub(super) counted: bool,
    pub(super) filters: filter::States,
    pub(super) series: SmallVec<[Series; 1]>,
}

impl Channel {
    pub(super) fn new(measurement: &Arc<Measurement>, plan: u32) -> Self {
        Self {
            measurement: Arc::clone(measurement),
            alias: Arc::clone(measurement),
            plan,
            id: UNNAMED,
            counted: false,
            filters: SmallVec::new(),
            series: SmallVec::new(),
        }
    }

    /// Bytes that it takes, windows apart.
    pub(super) fn bytes(&self) -> usize {
        let spilled = |is: bool, bytes: usize| if is { bytes } else { 0 };
        size_of::<Self>()
            + spilled(self.filters.spilled(), self.filters.len() * size_of::<filter::Passed>())
            + spilled(self.series.spilled(), self.series.len() * size_of::<Series>())
    }
}

impl Device {
    fn new(name: &Name, now_ms: u64) -> Self {
        Self {
            name: Name::clone(name),
            alias: Name::clone(name),
            profile: ("".into(), UNNAMED),
            watermark: i64::MIN,
            next_close: i64::MAX,
            closed_max: i64::MIN,
            open: 0,
            windowed_ms: now_ms,
            heard_ms: now_ms,
            id: UNNAMED,
            journal_profile: UNNAMED,
            channels: Vec::new(),
        }
    }

    /// The channel of a measurement. `near` is where it would be if this reading had the order of the last.
    pub(super) fn channel(&mut self, measurement: &Arc<Measurement>, near: usize) -> Option<usize> {
        let is = |channel: &Channel| Arc::ptr_eq(&channel.alias, measurement);
        if self.channels.get(near).is_some_and(is) {
            return Some(near);
        }
        if let Some(at) = self.channels.iter().position(is) {
            return Some(at);
        }
        // A measurement's name decides its unit: aggregates are told apart by name.
        let at = self.channels.iter().position(|channel| channel.measurement.name == measurement.name)?;
        self.channels[at].alias = Arc::clone(measurement);
        Some(at)
    }

    /// Bytes that a device of this name takes, channels apart.
    pub(super) fn bytes(name: &str) -> usize {
        // Two entries of hash maps, each of them twice as large as it is full.
        size_of::<Option<Self>>()
            + name.len()
            + 2 * size_of::<Name>()
            + 2 * (size_of::<(Name, u32)>() + size_of::<(usize, u32)>())
    }
}

/// All devices. A slot keeps its number until its device is forgotten.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Option<Device>>,
    free: Vec<u32>,
    by_address: HashMap<usize, u32>,
    by_name: HashMap<Name, u32>,
    /// The next number that the journal gives.
    pub(super) next_id: u32,
}

fn address(name: &Name) -> usize {
    Arc::as_ptr(name).cast::<u8>() as usize
}

impl Table {
    /// The slot of a device.
    pub(super) fn find(&mut self, name: &Name) -> Option<u32> {
        if let Some(slot) = self.by_address.get(&address(name)) {
            return Some(*slot);
        }
        let slot = *self.by_name.get(name)?;
        let device = self.slots.get_mut(slot as usize)?.as_mut()?;
        self.by_address.remove(&address(&device.alias));
        device.alias = Name::clone(name);
        self.by_address.insert(address(name), slot);
        Some(slot)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Device> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Adds a device that is not there yet.
    pub(super) fn add(&mut self, name: &Name, now_ms: u64) -> u32 {
        let device = Device::new(name, now_ms);
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                // Fewer devices than bytes of state, which the configuration limits to 1 GiB.
                (self.slots.len() - 1) as u32
            }
        };
        self.by_address.insert(address(&device.alias), slot);
        self.by_name.insert(Name::clone(name), slot);
        self.slots[slot as usize] = Some(device);
        slot
    }

    /// Takes a device out.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Device> {
        let device = self.slots.get_mut(slot as usize)?.take()?;
        self.by_address.remove(&address(&device.alias));
        self.by_name.remove(&device.name);
        self.free.push(slot);
        Some(device)
    }

    /// The numbers of all slots, empty ones included.
    pub(super) fn slots(&self) -> std::ops::Range<u32> {
        0..self.slots.len() as u32
    }

    pub(super) fn devices(&self) -> impl Iterator<Item = &Device> {
        self.slots.iter().flatten()
    }
}
