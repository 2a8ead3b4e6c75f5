//! The built-in profiles. A test proves that this list is the folder `firmware-profiles`, and that each file is valid.

macro_rules! files {
    ($($path:literal,)+) => {
        /// Path below `firmware-profiles`, and content.
        pub const FILES: &[(&str, &str)] = &[$(($path, include_str!(concat!("../../firmware-profiles/", $path))),)+];
    };
}

files! {
    "generic/csv-line.toml",
    "generic/json-line.toml",
    "generic/json.toml",
    "tasmota/tasmota.toml",
    "zigbee2mqtt/zigbee2mqtt.toml",
}
