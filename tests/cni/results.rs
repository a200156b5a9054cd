//! Results of the plugins before this one, as `prevResult` has them.

use crate::plugin::quoted;

/// An ordinary result in the format of `version`, to the letter as a runtime may send it.
pub fn usual(version: &str) -> String {
    let body = match version {
        "0.1.0" | "0.2.0" => {
            r#""ip4": {"ip": "10.16.0.5/16", "gateway": "10.16.0.1",
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.16.0.1"}, {"dst": "10.96.0.0/12"}]},
            "ip6": {"ip": "fd00:10:16::5/64", "gateway": "fd00:10:16::1", "routes": []},
            "dns": {"nameservers": ["10.96.0.10"], "domain": "cluster.local", "search": [], "options": ["ndots:5"]}"#
        }
        "0.3.0" | "0.3.1" | "0.4.0" => {
            r#""interfaces": [{"name": "eth0", "mac": "00:00:00:24:65:F4", "sandbox": "/run/netns/a"}, {"name": "veth0"}],
            "ips": [{"version": "4", "address": "10.16.0.5/16", "gateway": "10.16.0.1", "interface": 0},
                {"version": "6", "address": "fd00:10:16::5/64", "interface": 0}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.16.0.1"}], "dns": {}"#
        }
        "1.0.0" => {
            r#""interfaces": [{"name": "eth0", "mac": "00:00:00:24:65:F4", "sandbox": "/run/netns/a"}, {"name": "veth0"}],
            "ips": [{"address": "10.16.0.5/16", "gateway": "10.16.0.1", "interface": 0}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.16.0.1"}], "dns": {"nameservers": ["10.96.0.10"]}"#
        }
        _ => {
            r#""interfaces": [{"name": "eth0", "mac": "00:00:00:24:65:F4", "sandbox": "/run/netns/a", "mtu": 1400},
                {"name": "vf0", "sandbox": "", "pciID": "0000:03:00.2", "socketPath": "/run/s/vhost.sock", "mtu": 0}],
            "ips": [{"address": "10.16.0.5/16", "gateway": "10.16.0.1", "interface": 0}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.16.0.1", "mtu": 1400, "advmss": 1360, "priority": 100,
                "table": 0, "scope": 0}, {"dst": "fd00::/8", "table": 254, "scope": 253}],
            "dns": {"nameservers": ["10.96.0.10"]}"#
        }
    };
    format!(r#"{{"cniVersion": {}, {body}}}"#, quoted(version))
}

/// Results that leave out what may be left out, as Go's encoder and plugins for special networks do. The version is
/// put in by the caller.
pub const SPARSE: [&str; 18] = [
    // No member but the version.
    "",
    // Layer 2 only.
    r#""interfaces":[{"name":"eth0","mac":"0a:00:00:00:00:01","sandbox":"/run/netns/a"}]"#,
    // An interface on the host has no sandbox; one without an address of its own no MAC.
    r#""interfaces":[{"name":"veth0","mac":"0a:00:00:00:00:01"}]"#,
    r#""interfaces":[{"name":"tun0","sandbox":"/run/netns/a"}]"#,
    r#""interfaces":[{"name":"ib0","mac":"80:00:02:08:fe:80:00:00:00:00:00:00:e4:1d:2d:03:00:4f:e1:11"}]"#,
    r#""interfaces":[{"name":"eth0","mac":"","sandbox":""}]"#,
    r#""interfaces":[{}]"#,
    r#""interfaces":[{"name":""}]"#,
    // Addresses that belong to no interface of the list.
    r#""ips":[{"address":"10.0.0.2/24"}]"#,
    r#""ips":[{"address":"10.0.0.2/24","interface":0}]"#,
    r#""ips":[{"address":"10.0.0.2/24","interface":-1}],"interfaces":[]"#,
    // Empty lists and nulls.
    r#""interfaces":[],"ips":[],"routes":[],"dns":{}"#,
    r#""interfaces":null,"ips":null,"routes":null,"dns":null"#,
    r#""dns":{"nameservers":[],"search":null}"#,
    // Routes alone.
    r#""routes":[{"dst":"0.0.0.0/0"}]"#,
    r#""routes":[{"dst":"0.0.0.0/0","gw":""}]"#,
    r#""ips":[{"address":"10.0.0.2/32","gateway":null}]"#,
    r#""ip4":{"ip":"10.0.0.2/24"}"#,
];

/// A sparse result with its version.
pub fn sparse(version: &str, body: &str) -> String {
    let comma = if body.is_empty() { "" } else { "," };
    format!(r#"{{"cniVersion":{}{comma}{body}}}"#, quoted(version))
}

/// A result full of what a careless copy would lose: unknown fields at every level, spellings that have a simpler form,
/// numbers that no machine word holds, an order that isn't the alphabet's, and white space.
pub fn odd(version: &str) -> String {
    format!(
        r#"{{
 "zz" : {{"b":1,"a":[null,true,false,{{"":[]}}]}} , "interfaces":[ {{"name":"eth0","mac":"Aa:bB:0c:0D:0e:0F",
	"sandbox":"/run/netns/../netns/a","vendor":{{"x":[1,2,{{"y":null}}]}},"big":123456789012345678901234567890}}],
 "ips":[{{"address":"FD00:0:0:0:0:0:0:0005/64","gateway":"::ffff:10.0.0.1","interface":0,"extra":-0,"e":1E+2}}],
 "routes":[{{"dst":"0.0.0.0/00","gw":"010.0.0.1","weight":1.0,"tiny":1e-400,"huge":1e400}}],
 "dns":{{"nameservers":["fe80::1%eth0"],"unknown":"\u00e9\/\ud83d\ude00 é😀 \u0000 \ud800"}},
 "cniVersion":{},
 "i64":-9223372036854775809,"u64":18446744073709551616,"f":0.1000000000000000055511151231257827
}}"#,
        quoted(version)
    )
}
