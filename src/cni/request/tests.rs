use std::os::unix::ffi::OsStringExt;

use super::*;

fn args(text: &[u8]) -> Args {
    Args::new(&OsString::from_vec(text.to_vec()))
}

fn variables(pairs: &[(&str, &str)]) -> Variables {
    Variables::new(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)))
}

#[test]
fn arguments_are_read_in_any_order_and_odd_ones_passed_over() {
    let args = args(b"K8S_POD_UID=old;;=;x;IgnoreUnknown=1;\xff=1;A=B=C;EMPTY=;K8S_POD_UID=uid;K8S_POD_NAME=a b");
    assert_eq!(args.get("K8S_POD_UID"), Some("uid"));
    assert_eq!(args.get("K8S_POD_NAME"), Some("a b"));
    assert_eq!(args.get("IgnoreUnknown"), Some("1"));
    for absent in ["A", "EMPTY", "x", "k8s_pod_uid", "\u{fffd}"] {
        assert_eq!(args.get(absent), None, "{absent:?}");
    }
    assert_eq!(Args::default().get("K8S_POD_UID"), None);
}

#[test]
fn commands_are_exact() {
    assert_eq!(variables(&[("CNI_COMMAND", "GC")]).verb(), Ok(Verb::Call(Command::Gc)));
    assert_eq!(variables(&[("CNI_COMMAND", "VERSION")]).verb(), Ok(Verb::Version));
    for bad in ["", "add", "ADD ", "UPDATE", "Gc"] {
        let error = variables(&[("CNI_COMMAND", bad)]).verb().unwrap_err();
        assert!(error.code == 4 && error.msg.contains("CNI_COMMAND"), "{bad:?}: {error}");
    }
}

#[test]
fn one_error_names_every_variable_at_fault() {
    let error = variables(&[("CNI_IFNAME", "a/b"), ("CNI_NETNS", "")]).attachment(Command::Add).unwrap_err();
    for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
        assert!(error.code == 4 && error.msg.contains(name), "{name}: {error}");
    }
    let good = variables(&[("CNI_IFNAME", "eth0"), ("CNI_CONTAINERID", "Ab.c_-")]);
    assert!(good.attachment(Command::Del).is_ok());
    assert!(good.attachment(Command::Check).is_err());
    assert!(variables(&[]).attachment(Command::Gc).is_ok());
}

#[test]
fn the_plugins_own_namespace_is_refused_unless_allowed() {
    let own = Path::new("/proc/self/ns/net");
    assert_eq!(variables(&[]).refuse_own_namespace(own).unwrap_err().code, 4);
    assert!(variables(&[]).refuse_own_namespace(Path::new("/proc/self/ns/mnt")).is_ok());
    assert!(variables(&[]).refuse_own_namespace(Path::new("/nowhere")).is_ok());
    for yes in ["1", "true", "TRUE"] {
        assert!(variables(&[("CNI_NETNS_OVERRIDE", yes)]).refuse_own_namespace(own).is_ok());
    }
    assert!(variables(&[("CNI_NETNS_OVERRIDE", "0")]).refuse_own_namespace(own).is_err());
    let detour = Path::new("/usr/../proc/self/ns/net");
    assert!(variables(&[]).refuse_own_namespace(detour).is_ok(), "not judged, and not followed");
}
