//! R33-R41: ADD answers with the result that it was given.

use serde_json::Value;

use crate::plugin::{ALL, Call, quoted};
use crate::results::{SPARSE, odd, sparse, usual};
use crate::scene::Scene;

/// What ADD prints for this previous result, less the line's end.
fn added(scene: &Scene, version: &str, result: &str) -> String {
    let printed = Call::new("ADD", version, scene).member("prevResult", result).run().printed();
    printed.strip_suffix('\n').expect("a line").to_owned()
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn r33_to_r37_the_usual_result_of_each_version_comes_back_to_the_letter() {
    let scene = Scene::new();
    for version in ALL {
        let result = usual(version);
        let answer = added(&scene, version, &result);
        assert_eq!(value(&answer)["cniVersion"], version);
        assert_eq!(value(&answer), value(&result));
        assert_eq!(answer, result);
    }
}

#[test]
fn r34_the_oldest_results_keep_ip4_and_ip6() {
    let scene = Scene::new();
    for version in ["0.1.0", "0.2.0"] {
        let answer = value(&added(&scene, version, &usual(version)));
        assert_eq!(answer["ip4"]["routes"][0]["gw"], "10.16.0.1");
        assert_eq!(answer["ip6"]["ip"], "fd00:10:16::5/64");
        assert_eq!(answer["dns"]["options"][0], "ndots:5");
    }
}

#[test]
fn r35_addresses_keep_version_and_interface() {
    let scene = Scene::new();
    for version in ["0.3.0", "0.3.1", "0.4.0"] {
        let answer = value(&added(&scene, version, &usual(version)));
        assert_eq!((&answer["ips"][0]["version"], &answer["ips"][0]["interface"]), (&"4".into(), &0.into()));
        assert_eq!((&answer["ips"][1]["version"], &answer["ips"][1]["interface"]), (&"6".into(), &0.into()));
    }
}

#[test]
fn r37_the_fields_of_1_1_0_are_kept_also_where_they_are_0() {
    let scene = Scene::new();
    let answer = value(&added(&scene, "1.1.0", &usual("1.1.0")));
    let interfaces = &answer["interfaces"];
    assert_eq!((&interfaces[0]["mtu"], &interfaces[1]["mtu"]), (&1400.into(), &0.into()));
    assert_eq!(
        (&interfaces[1]["pciID"], &interfaces[1]["socketPath"]),
        (&"0000:03:00.2".into(), &"/run/s/vhost.sock".into())
    );
    let routes = &answer["routes"];
    for (field, number) in [("mtu", 1400), ("advmss", 1360), ("priority", 100), ("table", 0), ("scope", 0)] {
        assert_eq!(routes[0][field], number, "{field}");
    }
    assert_eq!((&routes[1]["table"], &routes[1]["scope"]), (&254.into(), &253.into()));
}

#[test]
fn r38_sparse_results_come_back_as_they_are() {
    let scene = Scene::new();
    for version in ALL {
        for body in SPARSE {
            let result = sparse(version, body);
            assert_eq!(added(&scene, version, &result), result);
        }
    }
}

#[test]
fn r38_a_result_without_a_version_gets_the_configurations_and_keeps_the_rest() {
    let scene = Scene::new();
    for version in ALL {
        for body in SPARSE {
            let answer = added(&scene, version, &format!("{{{body}}}"));
            assert_eq!(value(&answer), value(&sparse(version, body)));
            assert!(answer.contains(body), "{answer}");
        }
        for label in ["null", "\"\"", "\"0.0.1\"", "7"] {
            let answer = added(&scene, version, &format!("{{\"x\": 1.0,\"cniVersion\" : {label} }}"));
            assert_eq!(answer, format!("{{\"x\": 1.0,\"cniVersion\" : {} }}", quoted(version)));
        }
    }
}

#[test]
fn r39_unknown_fields_odd_spellings_and_big_numbers_survive_to_the_letter() {
    let scene = Scene::new();
    for version in ALL {
        let result = odd(version);
        assert_eq!(added(&scene, version, &result), result);
    }
}

#[test]
fn r39_a_version_that_is_spelt_oddly_is_the_version() {
    let scene = Scene::new();
    let result = r#"{"cni\u0056ersion":"1.\u0030.0"}"#;
    assert_eq!(added(&scene, "1.0.0", result), result);
}

#[test]
fn r40_add_is_for_chains() {
    let scene = Scene::new();
    for version in ALL {
        let add = Call::new("ADD", version, &scene);
        for call in [add.clone().without("prevResult"), add.member("prevResult", "null")] {
            let refusal = call.run().refused(&[7]);
            assert!(refusal.text.contains("prevResult"), "{refusal:?}");
        }
    }
}

#[test]
fn r41_a_result_must_be_an_object() {
    let scene = Scene::new();
    for version in ALL {
        for raw in ["\"text\"", "\"{}\"", "[]", "[{}]", "7", "true", "false"] {
            let refusal = Call::new("ADD", version, &scene).member("prevResult", raw).run().refused(&[7]);
            assert!(refusal.text.contains("prevResult"), "{refusal:?}");
        }
    }
}
