//! What a value is: the tables of value information fields (EN 13757-3, clause 6.4 and tables 10 to 16; the older edition of
//! them is free as "The M-Bus: A Documentation", 8.4.3 to 8.4.5).
//!
//! A field of one byte says quantity, unit and power of ten; `fd` and `fb` before it choose other tables. What comes behind
//! with the extension bit (VIFE) says more: which phase, which direction, another power of ten, or that the value is no longer
//! the quantity itself but a date or a duration about it. Such a value has a `qualifier`, so that nothing takes a date for
//! cubic metres.

/// More of them than the standard allows are no value information.
const VIFES_MAX: usize = 10;
const EXTENSION: u8 = 0x80;
const HOUR: u32 = 3_600;
const DAY: u32 = 24 * HOUR;

/// What its bytes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// A number with a sign.
    Number,
    /// Bits, or a number without a sign.
    Bits,
    /// A date or a time, which its length tells.
    Time,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meaning<'a> {
    pub(super) quantity: &'static str,
    /// In UCUM; empty for what has none.
    pub(super) unit: &'static str,
    /// The number is to be multiplied by that power of ten.
    pub(super) exponent: i32,
    /// … and by this: a duration is in seconds, whatever the meter counts.
    pub(super) factor: u32,
    pub(super) coding: Coding,
    /// A unit in the meter's own words, its last character first.
    pub(super) text: Option<&'a [u8]>,
    /// `l1`, `l2`, `l3`, or between which of them.
    pub(super) phase: Option<&'static str>,
    /// `forward` or `backward`, where both are counted apart.
    pub(super) direction: Option<&'static str>,
    /// Says that the value is not that of the quantity itself.
    pub(super) qualifier: Option<&'static str>,
    /// The meter says why there is no value.
    pub(super) error: Option<&'static str>,
}

const fn of(quantity: &'static str, unit: &'static str, exponent: i32) -> Meaning<'static> {
    Meaning {
        quantity,
        unit,
        exponent,
        factor: 1,
        coding: Coding::Number,
        text: None,
        phase: None,
        direction: None,
        qualifier: None,
        error: None,
    }
}

const fn bits(quantity: &'static str) -> Meaning<'static> {
    Meaning { coding: Coding::Bits, ..of(quantity, "", 0) }
}

const fn time(quantity: &'static str) -> Meaning<'static> {
    Meaning { coding: Coding::Time, ..of(quantity, "", 0) }
}

/// A duration, of which two bits say whether it is in seconds, minutes, hours or days.
fn duration(quantity: &'static str, field: u8) -> Meaning<'static> {
    Meaning { factor: [1, 60, HOUR, DAY][usize::from(field & 3)], ..of(quantity, "s", 0) }
}

/// The same with hours, days, months and years, of which the last two are no certain number of seconds.
fn long_duration(quantity: &'static str, field: u8) -> Meaning<'static> {
    match field & 3 {
        0 => Meaning { factor: HOUR, ..of(quantity, "s", 0) },
        1 => Meaning { factor: DAY, ..of(quantity, "s", 0) },
        2 => of(quantity, "mo", 0),
        _ => of(quantity, "a", 0),
    }
}

/// The value information at the beginning of `bytes`, and how many of them it takes; nothing if it does not end in them.
pub(super) fn read(bytes: &[u8]) -> Option<(Meaning<'_>, usize)> {
    let (&field, mut rest) = bytes.split_first()?;
    let mut text = None;
    // The words follow at once, and what extends the field stands behind them.
    if field & !EXTENSION == 0x7c {
        let (&length, after) = rest.split_first()?;
        let (words, after) = after.split_at_checked(length.into())?;
        (text, rest) = (Some(words), after);
    }
    let mut vifes: &[u8] = &[];
    if field & EXTENSION != 0 {
        let last = rest.iter().take(VIFES_MAX).position(|byte| byte & EXTENSION == 0)?;
        (vifes, rest) = rest.split_at_checked(last + 1)?;
    }
    let mut take = || {
        let (first, after) = vifes.split_first()?;
        vifes = after;
        Some(first & !EXTENSION)
    };
    let mut meaning = match field {
        0xfd => match take()? {
            // A third table below the second one.
            0x7d => take().map_or_else(|| of("unknown", "", 0), second),
            code => main_extension(code),
        },
        0xfb => alternate_extension(take()?),
        _ if text.is_some() => Meaning { text, ..of("text", "", 0) },
        _ => primary(field & !EXTENSION),
    };
    // Behind `ff` they mean what the manufacturer says.
    if field != 0xff {
        extend(&mut meaning, vifes);
    }
    Some((meaning, bytes.len() - rest.len()))
}

/// The primary table. Of a field in it, `n` is the last three bits in the standard's words.
fn primary(field: u8) -> Meaning<'static> {
    let (n, nn) = (i32::from(field & 7), i32::from(field & 3));
    match field {
        0x00..=0x07 => of("energy", "W.h", n - 3),
        0x08..=0x0f => of("energy", "J", n),
        0x10..=0x17 => of("volume", "m3", n - 6),
        0x18..=0x1f => of("mass", "kg", n - 3),
        0x20..=0x23 => duration("on_time", field),
        0x24..=0x27 => duration("operating_time", field),
        0x28..=0x2f => of("power", "W", n - 3),
        0x30..=0x37 => of("power", "J/h", n),
        0x38..=0x3f => of("volume_flow", "m3/h", n - 6),
        0x40..=0x47 => of("volume_flow", "m3/min", n - 7),
        0x48..=0x4f => of("volume_flow", "m3/s", n - 9),
        0x50..=0x57 => of("mass_flow", "kg/h", n - 3),
        0x58..=0x5b => of("flow_temperature", "Cel", nn - 3),
        0x5c..=0x5f => of("return_temperature", "Cel", nn - 3),
        0x60..=0x63 => of("temperature_difference", "K", nn - 3),
        0x64..=0x67 => of("external_temperature", "Cel", nn - 3),
        0x68..=0x6b => of("pressure", "bar", nn - 3),
        0x6c => time("date"),
        0x6d => time("time"),
        0x6e => of("heat_cost", "", 0),
        0x70..=0x73 => duration("averaging_duration", field),
        0x74..=0x77 => duration("actuality_duration", field),
        0x78 => bits("fabrication_number"),
        0x79 => bits("identification"),
        0x7a => bits("address"),
        0x7e => of("any", "", 0),
        0x7f => bits("manufacturer"),
        _ => of("unknown", "", 0),
    }
}

/// The table behind `fd`.
fn main_extension(code: u8) -> Meaning<'static> {
    let (nn, nnnn) = (i32::from(code & 3), i32::from(code & 15));
    match code {
        0x00..=0x03 => of("credit", "", nn - 3),
        0x04..=0x07 => of("debit", "", nn - 3),
        0x08 => bits("access_number"),
        0x09 => bits("medium"),
        0x0a => bits("manufacturer_code"),
        0x0b => bits("parameter_set"),
        0x0c => bits("model"),
        0x0d => bits("hardware_version"),
        0x0e => bits("firmware_version"),
        0x0f => bits("software_version"),
        0x10 => bits("customer_location"),
        0x11 => bits("customer"),
        0x12..=0x16 => bits("access_code"),
        0x17 => bits("error_flags"),
        0x18 => bits("error_mask"),
        0x1a => bits("digital_output"),
        0x1b => bits("digital_input"),
        0x1c => of("baud", "", 0),
        0x1d => of("response_delay", "", 0),
        0x1e => of("retries", "", 0),
        0x20 => of("first_storage", "", 0),
        0x21 => of("last_storage", "", 0),
        0x22 => of("storage_block", "", 0),
        0x24..=0x27 => duration("storage_interval", code),
        0x28 => of("storage_interval", "mo", 0),
        0x29 => of("storage_interval", "a", 0),
        0x2c..=0x2f => duration("time_since_readout", code),
        0x30 => time("tariff_start"),
        0x31..=0x33 => duration("tariff_duration", code),
        0x34..=0x37 => duration("tariff_period", code),
        0x38 => of("tariff_period", "mo", 0),
        0x39 => of("tariff_period", "a", 0),
        0x3a => of("number", "", 0),
        0x3c..=0x3f => duration("transmission_period", code),
        0x40..=0x4f => of("voltage", "V", nnnn - 9),
        0x50..=0x5f => of("current", "A", nnnn - 12),
        0x60 => of("resets", "", 0),
        0x61 => of("cumulations", "", 0),
        0x62 => bits("control_signal"),
        0x63 => of("day_of_week", "", 0),
        0x64 => of("week", "", 0),
        0x65 => time("day_change"),
        0x66 => bits("parameter_activation"),
        0x67 => bits("supplier_information"),
        0x68..=0x6b => long_duration("time_since_cumulation", code),
        0x6c..=0x6f => long_duration("battery_operating_time", code),
        0x70 => time("battery_change"),
        0x71 => of("rssi", "dB[mW]", 0),
        0x74 => Meaning { factor: DAY, ..of("battery_left", "s", 0) },
        0x75 => of("stops", "", 0),
        _ => of("unknown", "", 0),
    }
}

/// The table behind `fd fd`.
fn second(code: u8) -> Meaning<'static> {
    match code {
        0x02 => of("battery_left", "mo", 0),
        0x03 => of("battery_left", "a", 0),
        _ => of("unknown", "", 0),
    }
}

/// The table behind `fb`.
fn alternate_extension(code: u8) -> Meaning<'static> {
    let (n, nn, nnn) = (i32::from(code & 1), i32::from(code & 3), i32::from(code & 7));
    match code {
        0x00 | 0x01 => of("energy", "W.h", n + 5),
        0x02 | 0x03 => of("reactive_energy", "V.A.h{reactive}", n + 3),
        0x04 | 0x05 => of("apparent_energy", "V.A.h", n + 3),
        0x08 | 0x09 => of("energy", "J", n + 8),
        0x0c..=0x0f => of("energy", "cal", nn + 5),
        0x10 | 0x11 => of("volume", "m3", n + 2),
        0x14..=0x17 => of("reactive_power", "V.A{reactive}", nn),
        0x18 | 0x19 => of("mass", "kg", n + 5),
        0x1a | 0x1b => of("humidity", "%", n - 1),
        0x20 => of("volume", "[cft_i]", 0),
        0x21 => of("volume", "[cft_i]", -1),
        0x22 => of("volume", "[gal_us]", -1),
        0x23 => of("volume", "[gal_us]", 0),
        0x24 => of("volume_flow", "[gal_us]/min", -3),
        0x25 => of("volume_flow", "[gal_us]/min", 0),
        0x26 => of("volume_flow", "[gal_us]/h", 0),
        0x28 | 0x29 => of("power", "W", n + 5),
        0x2a => of("voltage_angle", "deg", -1),
        0x2b => of("current_angle", "deg", -1),
        0x2c..=0x2f => of("frequency", "Hz", nn - 3),
        0x30 | 0x31 => of("power", "J/h", n + 8),
        0x34..=0x37 => of("apparent_power", "V.A", nn),
        0x58..=0x5b => of("flow_temperature", "[degF]", nn - 3),
        0x5c..=0x5f => of("return_temperature", "[degF]", nn - 3),
        0x60..=0x63 => of("temperature_difference", "[degF]", nn - 3),
        0x64..=0x67 => of("external_temperature", "[degF]", nn - 3),
        0x70..=0x73 => of("temperature_limit", "[degF]", nn - 3),
        0x74..=0x77 => of("temperature_limit", "Cel", nn - 3),
        0x78..=0x7f => of("cumulated_power", "W", nnn - 3),
        _ => of("unknown", "", 0),
    }
}

/// What the fields behind it say more.
fn extend(meaning: &mut Meaning<'_>, vifes: &[u8]) {
    let mut codes = vifes.iter().map(|code| code & !EXTENSION);
    while let Some(code) = codes.next() {
        match code {
            // Why there is no value (a meter's answer has no object actions, which these codes are for a master).
            0x00 => {}
            0x01..=0x1f => meaning.error = Some(error(code)),
            0x20..=0x27 | 0x2c..=0x38 => meaning.qualifier = Some("per_unit"),
            0x28..=0x2b => meaning.qualifier = Some("per_pulse"),
            0x39 => instead(meaning, Coding::Time, "start"),
            // What would otherwise be corrected is as it was measured: still that quantity.
            0x3a | 0x3e => {}
            0x3b => meaning.direction = Some("forward"),
            0x3c => meaning.direction = Some("backward"),
            0x3d => meaning.qualifier = Some("non_metric"),
            0x40 | 0x48 => meaning.qualifier = Some("limit"),
            0x41 | 0x49 => instead(meaning, Coding::Number, "limit_exceeds"),
            0x42 | 0x43 | 0x46 | 0x47 | 0x4a | 0x4b | 0x4e | 0x4f => instead(meaning, Coding::Time, "limit_exceeded"),
            0x50..=0x5f => instead(meaning, Coding::Number, "limit_duration"),
            0x60..=0x67 => instead(meaning, Coding::Number, "duration"),
            0x68 | 0x6c => meaning.qualifier = Some("limit"),
            0x69 | 0x6d => meaning.qualifier = Some("leakage"),
            0x6a | 0x6b | 0x6e | 0x6f => instead(meaning, Coding::Time, "when"),
            0x70..=0x77 => meaning.exponent += i32::from(code & 7) - 6,
            0x78..=0x7b => meaning.qualifier = Some("offset"),
            0x7c => match codes.next() {
                Some(code) => combine(meaning, code),
                None => meaning.qualifier = Some("unknown"),
            },
            0x7d => meaning.exponent += 3,
            0x7e => meaning.qualifier = Some("future"),
            0x7f => {
                meaning.qualifier = Some("manufacturer");
                return;
            }
            _ => meaning.qualifier = Some("unknown"),
        }
    }
}

/// The codes behind `fc`.
fn combine(meaning: &mut Meaning<'_>, code: u8) {
    match code {
        0x01 => meaning.phase = Some("l1"),
        0x02 => meaning.phase = Some("l2"),
        0x03 => meaning.phase = Some("l3"),
        0x04 => meaning.phase = Some("n"),
        0x05 => meaning.phase = Some("l1_l2"),
        0x06 => meaning.phase = Some("l2_l3"),
        0x07 => meaning.phase = Some("l3_l1"),
        0x08..=0x0b => meaning.qualifier = Some("quadrant"),
        0x0c => meaning.qualifier = Some("difference"),
        0x10 => meaning.qualifier = Some("absolute"),
        _ => meaning.qualifier = Some("unknown"),
    }
}

/// The value is another one than that of the quantity.
fn instead(meaning: &mut Meaning<'_>, coding: Coding, qualifier: &'static str) {
    (meaning.unit, meaning.exponent, meaning.factor, meaning.coding) = ("", 0, 1, coding);
    meaning.qualifier = Some(qualifier);
}

/// The meter's words for a value that it does not have.
fn error(code: u8) -> &'static str {
    match code {
        0x15 => "no data",
        0x16 => "overflow",
        0x17 => "underflow",
        0x18 => "data error",
        0x1c => "premature end of record",
        _ => "error",
    }
}
