//! Files of JSON that the plugin reads beside its calls: its own records, and the conflist that a person has it judge.

use vhostuser_hotplug::conflist;
use vhostuser_hotplug::record::Record;

use super::said;

pub fn holds(bytes: &[u8]) {
    match Record::parse(bytes) {
        Ok(record) => {
            let text = serde_json::to_vec(&record).expect("a record is JSON");
            assert_eq!(Record::parse(&text).as_ref(), Ok(&record), "what is written is read");
            assert!(record.is_of(&record.container_id, &record.ifname) && record.format <= Record::format());
        }
        Err(fault) => drop(said(&fault)),
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let faults = conflist::faults(text);
        faults.iter().for_each(|fault| drop(said(fault)));
        assert!(faults.len() <= text.len() + 8);
    }
}
