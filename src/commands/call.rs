//! What the runtime asks for, read once from its request. The commands pass on plain values.

use std::path::Path;

use crate::attachment::context::AttachmentId;
use crate::attachment::journal::Journal;
use crate::attachment::record::Record;
use crate::cni::{NetConf, Request, Version};
use crate::config::{Config, Keys};
use crate::pod::identity::PodUid;
use crate::quote;

/// Most characters of a pod's namespace and of its name that are recorded. Kubernetes allows 253 bytes.
const NAME_MAX: usize = 253;

/// An ADD, DEL or CHECK.
pub struct Call<'a> {
    pub config: &'a Config,
    conf: &'a NetConf,
    pub id: AttachmentId<'a>,
    /// CNI_NETNS. ADD and CHECK always have it.
    pub netns: Option<&'a Path>,
    /// K8S_POD_UID, if it is a pod's UID.
    pub uid: Option<PodUid>,
    /// The pod's namespace and name, for people.
    pub pod: String,
}

impl<'a> Call<'a> {
    /// Reads the request. A malformed UID is logged and ignored; the pod may still be identified from the processes in
    /// CNI_NETNS.
    pub fn of(request: &'a Request, config: &'a Config, journal: &Journal) -> Self {
        let named = request.args.get("K8S_POD_UID");
        let uid = named.and_then(PodUid::parse);
        if named.is_some() && uid.is_none() {
            journal
                .warn("K8S_POD_UID in CNI_ARGS is not a pod's uid, neither a UUID nor 32 hexadecimal digits: ignored");
        }
        let cut = |key| request.args.get(key).unwrap_or("-").chars().take(NAME_MAX).collect::<String>();
        Self {
            config,
            conf: &request.conf,
            id: AttachmentId {
                network: &request.conf.name,
                container_id: &request.container_id,
                ifname: &request.ifname,
            },
            netns: request.netns.as_deref(),
            uid,
            pod: format!("{}/{}", cut("K8S_POD_NAMESPACE"), cut("K8S_POD_NAME")),
        }
    }

    /// Returns the version of the protocol to answer in.
    pub fn version(&self) -> Version {
        self.conf.version
    }

    /// Returns the plugin's keys that go into the record.
    pub fn keys(&self) -> Keys {
        self.config.keys(self.conf)
    }

    /// Returns the configuration for the attachment with this record.
    pub fn config_of(&self, record: Option<&Record>) -> Config {
        self.config.for_attachment(self.conf, record.and_then(|record| record.keys.as_ref()))
    }
}

/// Begins the log of a request.
pub fn journal(request: &Request) -> Journal {
    let mut call = request.command.to_string();
    let arg = |key| request.args.get(key).unwrap_or("-");
    if !request.container_id.is_empty() {
        call = format!(
            "{call} containerid={} ifname={} netns={} pod={}",
            quote::value(&request.container_id),
            quote::value(&request.ifname),
            request.netns.as_deref().map_or("-".into(), |path| quote::value(&path.to_string_lossy())),
            quote::value(&format!("{}/{}", arg("K8S_POD_NAMESPACE"), arg("K8S_POD_NAME"))),
        );
    }
    Journal::new(call, quote::value(arg("K8S_POD_UID")))
}
