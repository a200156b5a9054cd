//! What a data plane offers.

use std::fmt;

use super::message::{self, Connection, Message, request};
use crate::deadline::Deadline;

/// `VHOST_USER_F_PROTOCOL_FEATURES`: the virtio feature bit of a back end that has protocol features.
pub(super) const F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// `VIRTIO_F_IOMMU_PLATFORM` (virtio 1.0, 6): QEMU accepts a back end that offers it only if it also offers
/// BACKEND_REQ.
pub(super) const F_IOMMU_PLATFORM: u64 = 1 << 33;

/// The features that every virtio network device and its migration need: `VIRTIO_NET_F_MRG_RXBUF`, `_STATUS`,
/// `_CTRL_VQ` and `_MQ`, `VHOST_F_LOG_ALL`, `VHOST_USER_F_PROTOCOL_FEATURES` and `VIRTIO_F_VERSION_1`. Without the log
/// QEMU blocks migration, and refuses the back end if it can't.
const WIDE: u64 = 1 << 15 | 1 << 16 | 1 << 17 | 1 << 22 | 1 << 26 | F_PROTOCOL_FEATURES | 1 << 32;

/// `MAX_QUEUE_NUM` (include/net/net.h): QEMU gives no NIC more queue pairs.
const WIDE_QUEUES: u64 = 1024;

/// `MEMORY_DEVICES_SAFE_MAX_MEMSLOTS` (include/hw/mem/memory-device.h): with some memory devices QEMU refuses a back
/// end with fewer slots, however few are in use.
const WIDE_MEMORY_SLOTS: u64 = 509;

/// Most queue pairs and memory slots that are accepted: virtio numbers queues with 16 bits.
const COUNT_LIMIT: u64 = 1 << 15;

/// Memory slots of a back end without CONFIGURE_MEM_SLOTS (QEMU's `VHOST_MEMORY_BASELINE_NREGIONS`).
const BASELINE_SLOTS: u64 = 8;
/// Most slots that QEMU uses (`VHOST_USER_MAX_RAM_SLOTS`; 32 on POWER).
const QEMU_SLOT_LIMIT: u64 = 512;

/// Protocol features that matter here; "Protocol features" of the specification.
pub(super) mod protocol {
    pub const MQ: u64 = 1 << 0;
    pub const LOG_SHMFD: u64 = 1 << 1;
    pub const RARP: u64 = 1 << 2;
    pub const REPLY_ACK: u64 = 1 << 3;
    pub const NET_MTU: u64 = 1 << 4;
    pub const BACKEND_REQ: u64 = 1 << 5;
    pub const CROSS_ENDIAN: u64 = 1 << 6;
    pub const RESET_DEVICE: u64 = 1 << 13;
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;

    /// The features that the plugin uses as a front end.
    pub const TAKEN: u64 = MQ | REPLY_ACK | CONFIGURE_MEM_SLOTS;
}

/// What a data plane offers for one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Virtio features.
    pub features: u64,
    /// Vhost-user protocol features; 0 if it has none.
    pub protocol_features: u64,
    /// Queue pairs, 1 to 32768. More would put QEMU into an endless loop.
    pub queues: u64,
    /// Memory regions that can be added one by one, if it offers that.
    pub memory_slots: Option<u64>,
}

impl Capabilities {
    /// A data plane that offers nothing.
    pub const NONE: Self = Self { features: 0, protocol_features: 0, queues: 1, memory_slots: None };

    /// Asks the data plane at the other end, as QEMU does and in QEMU's order.
    ///
    /// # Errors
    /// Any [`message::Error`], also for an implausible answer.
    pub fn learn(connection: &mut Connection, deadline: Deadline) -> Result<Self, message::Error> {
        let features = connection.ask(request::GET_FEATURES, deadline)?;
        let mut capabilities = Self { features, protocol_features: 0, queues: 1, memory_slots: None };
        if features & F_PROTOCOL_FEATURES == 0 {
            return Ok(capabilities);
        }
        capabilities.protocol_features = connection.ask(request::GET_PROTOCOL_FEATURES, deadline)?;
        // The next questions are allowed only after taking the feature.
        let taken = capabilities.protocol_features & protocol::TAKEN;
        connection.send(&Message::ask(request::SET_PROTOCOL_FEATURES, &taken.to_ne_bytes()), deadline)?;
        if taken & protocol::MQ != 0 {
            capabilities.queues = believable("queue pairs", connection.ask(request::GET_QUEUE_NUM, deadline)?)?;
        }
        if taken & protocol::CONFIGURE_MEM_SLOTS != 0 {
            let slots = believable("memory slots", connection.ask(request::GET_MAX_MEM_SLOTS, deadline)?)?;
            capabilities.memory_slots = Some(slots);
        }
        Ok(capabilities)
    }

    /// Adds everything that QEMU may require of a back end (`vhost_dev_init` in hw/virtio/vhost.c,
    /// `vhost_user_backend_init` in hw/virtio/vhost-user.c). No data plane has all of it, so a NIC that QEMU plugs with
    /// it must be unplugged again.
    #[must_use]
    pub fn widened(&self) -> Self {
        use protocol as p;
        Self {
            // With an IOMMU QEMU requires even more.
            features: (self.features | WIDE) & !F_IOMMU_PLATFORM,
            protocol_features: self.protocol_features | p::MQ | p::LOG_SHMFD | p::REPLY_ACK | p::CONFIGURE_MEM_SLOTS,
            queues: self.queues.max(WIDE_QUEUES),
            // QEMU refuses fewer slots than before.
            memory_slots: Some(self.memory_slots.unwrap_or(0).max(WIDE_MEMORY_SLOTS)),
        }
    }

    /// Returns how many memory slots QEMU grants this data plane (`vhost_user_backend_init`).
    #[must_use]
    pub fn slot_limit(&self) -> u32 {
        if self.features & F_PROTOCOL_FEATURES == 0 {
            return 0;
        }
        let slots = self.memory_slots.map_or(BASELINE_SLOTS, |slots| slots.min(QEMU_SLOT_LIMIT));
        u32::try_from(slots).unwrap_or(u32::MAX)
    }

    /// Returns true if a NIC of this data plane can have `VIRTIO_F_ACCESS_PLATFORM`. With PCI, QEMU refuses a device
    /// with this feature if its back end lacks it (`virtio_bus_device_plugged`, hw/virtio/virtio-bus.c), although only
    /// a vIOMMU needs the back end for it (`vhost_dev_has_iommu`, hw/virtio/vhost.c).
    #[must_use]
    pub const fn has_access_platform(&self) -> bool {
        self.features & F_IOMMU_PLATFORM != 0
    }

    /// Returns why QEMU refuses this data plane for any VM, or `None` if it doesn't.
    #[must_use]
    pub const fn refusal(&self) -> Option<&'static str> {
        const WANTED: u64 = protocol::REPLY_ACK | protocol::BACKEND_REQ;
        if self.features & F_PROTOCOL_FEATURES == 0 {
            return Some("it doesn't offer VHOST_USER_F_PROTOCOL_FEATURES");
        }
        if self.features & F_IOMMU_PLATFORM != 0 && self.protocol_features & WANTED != WANTED {
            return Some("it offers VIRTIO_F_IOMMU_PLATFORM without the protocol features REPLY_ACK and BACKEND_REQ");
        }
        None
    }

    /// Returns the protocol features that a stand-in offers for this data plane: those that it can serve. QEMU
    /// negotiates them again when the data plane connects, so offering less does no harm. The virtio features, which
    /// the guest sees, must be exactly the data plane's.
    ///
    /// It leaves out those that need an answer with a descriptor (INFLIGHT_SHMFD, PAGEFAULT, SHARED_OBJECT,
    /// DEVICE_STATE), another layout (XEN_MMAP) or another channel (INBAND_NOTIFICATIONS, BACKEND_REQ and what depends
    /// on it), and CONFIG, which QEMU does not use with a NIC.
    #[must_use]
    pub fn stand_in(&self) -> u64 {
        use protocol as p;
        let mut kept = p::MQ | p::LOG_SHMFD | p::RARP | p::REPLY_ACK | p::NET_MTU | p::CROSS_ENDIAN | p::RESET_DEVICE;
        kept |= p::CONFIGURE_MEM_SLOTS | p::STATUS;
        if self.features & F_IOMMU_PLATFORM != 0 {
            kept |= p::BACKEND_REQ;
        }
        self.protocol_features & kept
    }
}

fn believable(what: &str, count: u64) -> Result<u64, message::Error> {
    if (1..=COUNT_LIMIT).contains(&count) {
        return Ok(count);
    }
    Err(message::Error::Protocol(format!("it says that it has {count} {what}")))
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { features, protocol_features, queues, .. } = self;
        write!(f, "features={features:#x} protocol_features={protocol_features:#x} queues={queues}")?;
        self.memory_slots.map_or(Ok(()), |slots| write!(f, " memory_slots={slots}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    /// Lets a data plane answer with these words in turn, and returns what was learnt and what it was asked.
    fn learn(answers: &[u64]) -> (Result<Capabilities, message::Error>, Vec<u32>) {
        let (peer, own) = UnixStream::pair().unwrap();
        let mut own = Connection::new(own).unwrap();
        let deadline = Deadline::after(Duration::from_secs(60));
        let answers = answers.to_vec();
        let data_plane = std::thread::spawn(move || {
            let mut peer = Connection::new(peer).unwrap();
            let (mut answers, mut asked) = (answers.into_iter(), Vec::new());
            while let Ok(message) = peer.receive(deadline) {
                asked.push(message.request);
                if message.request == request::SET_PROTOCOL_FEATURES {
                    continue;
                }
                let Some(answer) = answers.next() else { break };
                peer.send(&message.reply(&answer.to_ne_bytes()), deadline).unwrap();
            }
            asked
        });
        let learnt = Capabilities::learn(&mut own, deadline);
        drop(own);
        (learnt, data_plane.join().unwrap())
    }

    #[test]
    fn ovs_is_understood() {
        let (learnt, asked) = learn(&[0xd7c6_6a7ca, 0x10cbf, 128]);
        let ovs = Capabilities { features: 0xd7c6_6a7ca, protocol_features: 0x10cbf, queues: 128, memory_slots: None };
        assert_eq!((learnt, asked.as_slice()), (Ok(ovs), [1, 15, 16, 17].as_slice()));
        // MQ, LOG_SHMFD, RARP, REPLY_ACK, NET_MTU and STATUS; not BACKEND_REQ (5), nor 7, 10, 11.
        assert_eq!(ovs.stand_in(), 0x1001f);
        assert_eq!(ovs.to_string(), "features=0xd7c66a7ca protocol_features=0x10cbf queues=128");
    }

    #[test]
    fn an_old_data_plane_has_one_queue_pair_and_is_asked_no_more() {
        let (learnt, asked) = learn(&[0x1_0000_0000]);
        assert_eq!((learnt.unwrap().queues, asked), (1, vec![1]));
        let (learnt, asked) = learn(&[F_PROTOCOL_FEATURES, protocol::STATUS]);
        assert_eq!((learnt.unwrap().queues, asked), (1, vec![1, 15, 16]));
    }

    #[test]
    fn memory_slots_are_learnt_where_they_are_offered() {
        let (learnt, _) = learn(&[F_PROTOCOL_FEATURES, protocol::CONFIGURE_MEM_SLOTS, 32]);
        assert_eq!(learnt.unwrap().memory_slots, Some(32));
    }

    #[test]
    fn slots_are_limited_as_qemu_limits_them() {
        let capabilities =
            |features, memory_slots| Capabilities { features, protocol_features: 0, queues: 1, memory_slots };
        for (features, slots, limit) in [
            (0, None, 0),
            (F_PROTOCOL_FEATURES, None, 8),
            (F_PROTOCOL_FEATURES, Some(8), 8),
            (F_PROTOCOL_FEATURES, Some(1), 1),
            (F_PROTOCOL_FEATURES, Some(509), 509),
            (F_PROTOCOL_FEATURES, Some(COUNT_LIMIT), 512),
        ] {
            assert_eq!(capabilities(features, slots).slot_limit(), limit, "{features:#x} {slots:?}");
        }
    }

    #[test]
    fn what_qemu_refuses_for_any_vm_is_known() {
        let refused = |features, protocol_features| {
            Capabilities { features, protocol_features, queues: 1, memory_slots: None }.refusal().is_some()
        };
        let (iommu, wanted) = (F_PROTOCOL_FEATURES | F_IOMMU_PLATFORM, protocol::REPLY_ACK | protocol::BACKEND_REQ);
        assert!(refused(0, 0) && !refused(F_PROTOCOL_FEATURES, 0));
        assert!(refused(iommu, 0) && refused(iommu, protocol::REPLY_ACK) && refused(iommu, protocol::BACKEND_REQ));
        assert!(!refused(iommu, wanted) && refused(F_IOMMU_PLATFORM, wanted));
    }

    #[test]
    fn back_end_requests_are_offered_only_where_qemu_insists_on_them() {
        let (learnt, _) = learn(&[F_PROTOCOL_FEATURES | F_IOMMU_PLATFORM, u64::MAX, 4, 8]);
        assert_eq!(learnt.unwrap().stand_in() & protocol::BACKEND_REQ, protocol::BACKEND_REQ);
    }

    #[test]
    fn what_is_widened_lacks_nothing_that_qemu_insists_on() {
        let wide = Capabilities::NONE.widened();
        assert_eq!((wide.queues, wide.memory_slots, wide.features >> 32), (1024, Some(509), 1));
        assert_eq!(wide.stand_in(), wide.protocol_features);
        let with_iommu =
            Capabilities { features: F_IOMMU_PLATFORM, memory_slots: Some(600), ..Capabilities::NONE }.widened();
        assert_eq!((with_iommu.features & F_IOMMU_PLATFORM, with_iommu.memory_slots), (0, Some(600)));
    }

    #[test]
    fn counts_that_cannot_be_are_not_believed() {
        for count in [0, COUNT_LIMIT + 1, u64::MAX] {
            let (learnt, _) = learn(&[F_PROTOCOL_FEATURES, protocol::MQ, count]);
            assert!(matches!(learnt, Err(message::Error::Protocol(_))), "{learnt:?}");
        }
    }

    #[test]
    fn one_that_hangs_up_half_way_is_closed() {
        assert_eq!(learn(&[F_PROTOCOL_FEATURES]).0, Err(message::Error::Closed));
    }
}
