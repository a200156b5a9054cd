//! Files of JSON that the plugin reads beside its calls: its own records, and the conflist that a person has it judge.

use serde_json::Map;
use vhostuser_hotplug::attachment::record::Record;
use vhostuser_hotplug::conflist::PLUGIN;
use vhostuser_hotplug::conflist::chain::Chain;
use vhostuser_hotplug::conflist::text::ListText;

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
        let faults = Chain::parse(text).map_or_else(|why| vec![why], |chain| chain.judge().faults);
        faults.iter().for_each(|fault| drop(said(fault)));
        assert!(faults.len() <= text.len() + 8);
        conflist_is_edited(text);
    }
}

/// Our entry comes and goes, and nothing else does.
fn conflist_is_edited(text: &str) {
    let list = match ListText::parse(text) {
        Ok(list) => list,
        Err(fault) => return drop(said(&fault)),
    };
    let kinds = |text: &str| {
        ListText::parse(text).expect("an edited list is one").types().map(str::to_owned).collect::<Vec<_>>()
    };
    let others = |text: &str| kinds(text).into_iter().filter(|kind| kind != PLUGIN).collect::<Vec<_>>();
    if let Ok(with) = list.with_entry(&Map::new()) {
        assert_eq!((others(&with), kinds(&with).len()), (others(text), others(text).len() + 1));
        let again = ListText::parse(&with).expect("an edited list is one").with_entry(&Map::new());
        assert_eq!(again.expect("it was edited before"), with, "once and for all");
    }
    if let Ok(without) = list.without_entry() {
        assert_eq!(kinds(&without), others(text));
    }
}
