//! Counts the memory slots that QEMU needs from a vhost-user back end, from the live XML of the domain.
//!
//! QEMU shares each contiguous piece of a RAM block with the back end. It refuses a back end that has fewer slots than
//! there are pieces, and tries again without end (`net_vhost_user_init`). The count follows QEMU 10.0:
//! * `vhost_section` takes RAM that has a file descriptor. This leaves out video memory, firmware and the BARs of host
//!   devices.
//! * `vhost_region_add_section` rounds each piece to the page size of its block and joins neighbours of the same block.
//!   Pieces of different blocks are never joined. Each NUMA cell is a block, and so is each memory device.
//! * `pc_q35_init` and `pc_init1` split RAM at the PCI hole below 4 GiB. VGA and firmware split it below 1 MiB.
//!
//! Some facts are not in the XML, such as what the firmware does with the chipset. They widen the bounds. A guest that
//! programs the PAM registers itself, segment by segment, is not counted: its memory has up to six more pieces.

use super::xml::Element;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Where VGA's memory is, if there is any.
const VGA: (u64, u64) = (0xa_0000, 0xc_0000);
/// Where the chipset shows RAM or firmware, as its PAM registers say.
const PAM: (u64, u64) = (0xc_0000, 0x10_0000);
/// What q35 can hide from all but SMM code (`MCH_HOST_BRIDGE_SMBASE_ADDR`).
const SMBASE: (u64, u64) = (0x3_0000, 0x5_0000);
/// TSEG, the end of low memory that q35 can hide too: QEMU's default size.
const TSEG: u64 = 16 * MIB;

/// Slots that one virtio-mem device with dynamic slots takes at most (`MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT`).
const DYNAMIC_SLOTS: u32 = 256;
/// Least slots that a back end must have with a virtio-mem device with several slots
/// (`MEMORY_DEVICES_SAFE_MAX_MEMSLOTS`).
const DYNAMIC_LIMIT: u32 = 509;
/// Smallest slot of such a device (`VIRTIO_MEM_MIN_MEMSLOT_SIZE`).
const DYNAMIC_SLOT_SIZE: u64 = GIB;

/// The number of memory slots that a back end must have. The bounds are equal where the XML decides it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemorySlots {
    /// QEMU refuses a back end with fewer slots.
    pub at_least: u32,
    /// QEMU takes a back end with this many slots.
    pub at_most: u32,
}

impl MemorySlots {
    const fn exactly(count: u32) -> Self {
        Self { at_least: count, at_most: count }
    }

    const fn up_to(at_most: u32) -> Self {
        Self { at_least: 0, at_most }
    }

    /// Counts the slots for a domain.
    #[must_use]
    pub(super) fn of(domain: &Element) -> Self {
        let nowhere = Element::default();
        let devices = domain.child("devices").unwrap_or(&nowhere);
        let mut slots = ram(domain, devices).unwrap_or(Self { at_least: 1, at_most: u32::MAX });
        for device in devices.all_children() {
            slots.add(match device.name.as_str() {
                "memory" => memory_device(device),
                // The guest maps its BAR, or doesn't.
                "shmem" => Self::up_to(1),
                _ => continue,
            });
        }
        if has_unknown_memory(domain) {
            slots.at_most = u32::MAX;
        }
        if devices.children("memory").any(decides_by_itself) {
            slots.at_most = slots.at_most.max(DYNAMIC_LIMIT);
        }
        slots
    }

    fn add(&mut self, other: Self) {
        self.at_least = self.at_least.saturating_add(other.at_least);
        self.at_most = self.at_most.saturating_add(other.at_most);
    }
}

/// One RAM block of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    size: u64,
    pages: Pages,
}

/// The pages of a RAM block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pages {
    Small,
    Huge(u64),
    /// A file in a directory that libvirt's configuration names: it may be hugetlbfs.
    Unknown,
}

/// One way in which the machine can show its RAM to the guest.
#[derive(Clone, Copy, Debug, Default)]
struct Layout {
    /// Where RAM continues at 4 GiB.
    split: u64,
    vga: bool,
    pam: bool,
    smbase: bool,
    tseg: u64,
    /// Whether files whose page size is unknown have huge pages.
    huge: bool,
}

/// Counts the slots for the machine's own RAM; `None` if the XML does not describe it as libvirt does.
fn ram(domain: &Element, devices: &Element) -> Option<MemorySlots> {
    let blocks = blocks(domain, devices)?;
    let total = blocks.iter().fold(0_u64, |sum, block| sum.saturating_add(block.size));
    let machine = domain.child("os").and_then(|os| os.child("type"));
    let (arch, machine) = machine.map(|kind| (kind.attribute("arch"), kind.attribute("machine")))?;
    let machine = machine.unwrap_or_default();
    let layouts = match arch? {
        "x86_64" | "i686" if machine.contains("q35") => pc(domain, devices, &q35_splits(total), true),
        "x86_64" | "i686" if machine == "pc" || machine.contains("i440fx") => {
            pc(domain, devices, &i440fx_splits(total, machine), false)
        }
        // Contiguous RAM.
        "aarch64" | "riscv64" | "ppc64" | "s390x" => vec![Layout { split: u64::MAX, ..Layout::default() }],
        _ => {
            let blocks = blocks.iter().filter(|block| block.size > 0).count();
            return Some(MemorySlots { at_least: u32::try_from(blocks).unwrap_or(u32::MAX), at_most: u32::MAX });
        }
    };
    let counts = layouts.iter().map(|layout| count(&blocks, layout));
    let (least, most) = counts.fold((u32::MAX, 0), |(least, most), count| (least.min(count), most.max(count)));
    let mut slots = MemorySlots { at_least: least, at_most: most };
    if blocks.iter().any(|block| !matches!(block.pages, Pages::Huge(_))) {
        slots.add(synic(domain));
    }
    Some(slots)
}

/// Returns the RAM blocks in the order of their addresses: NUMA cells, or the whole.
fn blocks(domain: &Element, devices: &Element) -> Option<Vec<Block>> {
    let cells = domain.child("cpu").and_then(|cpu| cpu.child("numa"));
    let cells: Vec<&Element> = cells.map(|numa| numa.children("cell").collect()).unwrap_or_default();
    if cells.is_empty() {
        // <memory> includes the memory devices.
        let mut size = size(domain.child("memory")?)?;
        for device in devices.children("memory") {
            size = size.saturating_sub(device_size(device)?);
        }
        return Some(vec![Block { size, pages: pages(domain, None) }]);
    }
    let mut numbered = Vec::with_capacity(cells.len());
    for cell in cells {
        let id: u32 = cell.attribute("id")?.parse().ok()?;
        let size = scaled(cell.attribute("memory")?, cell.attribute("unit"))?;
        numbered.push((id, Block { size, pages: pages(domain, Some(id)) }));
    }
    numbered.sort_by_key(|(id, _)| *id);
    Some(numbered.into_iter().map(|(_, block)| block).collect())
}

/// Returns the pages of a cell, or of a machine without cells (`qemuBuildMemoryGetPagesize`).
fn pages(domain: &Element, cell: Option<u32>) -> Pages {
    let backing = domain.child("memoryBacking");
    let usual = match backing.and_then(|backing| backing.child_attribute("source", "type")) {
        Some("memfd") => Pages::Small,
        _ => Pages::Unknown,
    };
    let Some(huge) = backing.and_then(|backing| backing.child("hugepages")) else { return usual };
    let mut general = None;
    for page in huge.children("page") {
        match (page.attribute("nodeset"), cell) {
            (None, _) => general = Some(page),
            (Some(nodes), Some(cell)) if contains(nodes, cell) => return page_size(page, usual),
            // libvirt versions differ in what this means.
            (Some(_), None) => return Pages::Unknown,
            (Some(_), Some(_)) => {}
        }
    }
    match (general, huge.child("page")) {
        (Some(page), _) => page_size(page, usual),
        (None, Some(_)) => usual,
        // The default of the host: at least 2 MiB on x86, the only architecture where the size matters.
        (None, None) => Pages::Huge(2 * MIB),
    }
}

fn page_size(page: &Element, usual: Pages) -> Pages {
    match page.attribute("size").and_then(|size| scaled(size, page.attribute("unit"))) {
        Some(size) if size <= 4 * KIB => usual,
        Some(size) if size.is_power_of_two() => Pages::Huge(size),
        _ => Pages::Unknown,
    }
}

/// Returns true if a set as libvirt writes it ("0-3,^2,5") contains a number.
fn contains(set: &str, number: u32) -> bool {
    let mut guest_path = false;
    for part in set.split(',').map(str::trim) {
        let (part, adds) = part.strip_prefix('^').map_or((part, true), |rest| (rest, false));
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>())
            && (first..=last).contains(&number)
        {
            guest_path = adds;
        }
    }
    guest_path
}

/// `<size unit='KiB'>`, as libvirt writes sizes.
fn size(element: &Element) -> Option<u64> {
    scaled(element.text(), element.attribute("unit"))
}

fn scaled(number: &str, unit: Option<&str>) -> Option<u64> {
    let unit = match unit {
        None | Some("KiB") => KIB,
        Some("MiB") => MIB,
        Some("GiB") => GIB,
        Some(_) => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// Returns the ways in which a PC can show its RAM.
fn pc(domain: &Element, devices: &Element, splits: &[u64], q35: bool) -> Vec<Layout> {
    let both = [false, true];
    let vga = vga(devices);
    let tseg = if q35 { tseg(domain) } else { None };
    let arguments = qemu_arguments(domain);
    let mut splits = splits.to_vec();
    if arguments.iter().any(|argument| argument.contains("max-ram-below-4g")) {
        splits.push(u64::MAX);
    }
    let mut layouts = Vec::new();
    for &split in &splits {
        for vga in vga.map_or(&both[..], |vga| if vga { &both[1..] } else { &both[..1] }) {
            for (pam, huge) in [(false, false), (false, true), (true, false), (true, true)] {
                let layout = Layout { split, vga: *vga, pam, huge, ..Layout::default() };
                layouts.push(layout);
                // The firmware may lock either.
                if let Some(tseg) = tseg {
                    layouts.push(Layout { tseg, ..layout });
                    layouts.push(Layout { smbase: true, ..layout });
                    layouts.push(Layout { smbase: true, tseg, ..layout });
                }
            }
        }
    }
    layouts
}

/// `pc_q35_init`.
fn q35_splits(total: u64) -> Vec<u64> {
    vec![if total >= 0xb000_0000 { 0x8000_0000 } else { 0xb000_0000 }]
}

/// `pc_init1`. Machine types before 2.0 had another split than later ones.
fn i440fx_splits(total: u64, machine: &str) -> Vec<u64> {
    match (total >= 0xe000_0000, machine.contains("-1.") || machine.contains("-0.")) {
        (true, false) => vec![0xc000_0000],
        (true, true) => vec![0xc000_0000, 0xe000_0000],
        (false, _) => vec![0xe000_0000],
    }
}

/// Returns true if a device shows VGA's memory; `None` if the XML doesn't say.
fn vga(devices: &Element) -> Option<bool> {
    let mut there = Some(false);
    for model in devices.children("video").filter_map(|video| video.child("model")) {
        let primary = model.attribute("primary") == Some("yes");
        match model.attribute("type") {
            Some("none" | "bochs" | "ramfb") => {}
            Some("vga" | "cirrus" | "vmvga") => return Some(true),
            Some("qxl") if primary => return Some(true),
            // virtio-vga or virtio-gpu, as this QEMU has them.
            _ => there = None,
        }
    }
    there
}

/// Returns the size of TSEG, where the firmware may use SMM: UEFI does, SeaBIOS doesn't hide RAM.
fn tseg(domain: &Element) -> Option<u64> {
    let smm = domain.child("features").and_then(|features| features.child("smm"));
    let os = domain.child("os")?;
    let uefi = os.attribute("firmware") == Some("efi") || os.child("loader").is_some();
    let on = match smm.map(|smm| smm.attribute("state")) {
        Some(Some("off")) => false,
        Some(_) => true,
        None => uefi,
    };
    let size = smm.and_then(|smm| smm.child("tseg")).and_then(size);
    on.then(|| size.filter(|size| *size > 0).unwrap_or(TSEG))
}

/// A piece of RAM in the guest's address space.
#[derive(Clone, Copy, Debug)]
struct Section {
    block: usize,
    /// Where it begins in its block.
    offset: u64,
    /// Where it begins in the guest's address space.
    address: u64,
    size: u64,
}

impl Section {
    const fn end(&self) -> u64 {
        self.address.saturating_add(self.size)
    }
}

/// Counts the sections that QEMU keeps (`vhost_region_add_section`), in the order of their addresses.
fn count(blocks: &[Block], layout: &Layout) -> u32 {
    let mut last: Option<Section> = None;
    let mut count = 0_u32;
    for mut section in sections(blocks, layout) {
        let page = match blocks.get(section.block).map(|block| block.pages) {
            Some(Pages::Huge(page)) => page,
            Some(Pages::Unknown) if layout.huge => 2 * MIB,
            _ => 4 * KIB,
        };
        let below = section.offset & (page - 1);
        section.offset -= below;
        section.address = section.address.saturating_sub(below);
        section.size = section.size.saturating_add(below).checked_next_multiple_of(page).unwrap_or(u64::MAX);
        if let Some(last) = &mut last
            && section.address <= last.end()
        {
            let ahead = section.address.checked_sub(last.address);
            let Some(ahead) = ahead else { continue };
            if section.block == last.block && last.offset.saturating_add(ahead) == section.offset {
                last.size = last.size.max(ahead.saturating_add(section.size));
                continue;
            }
            if section.address != last.end() {
                // QEMU reports this and leaves the section out.
                continue;
            }
        }
        count = count.saturating_add(1);
        last = Some(section);
    }
    count
}

/// Returns the sections of the blocks that the guest sees, in the order of their addresses.
fn sections(blocks: &[Block], layout: &Layout) -> Vec<Section> {
    let total = blocks.iter().fold(0_u64, |sum, block| sum.saturating_add(block.size));
    let low = total.min(layout.split);
    let holes = [
        (layout.smbase, SMBASE),
        (layout.vga, VGA),
        (layout.pam, PAM),
        (layout.tseg > 0, (low.saturating_sub(layout.tseg), low)),
    ];
    let mut sections = Vec::new();
    let mut start = 0_u64;
    for (block, size) in blocks.iter().map(|block| block.size).enumerate() {
        let end = start.saturating_add(size);
        let mut from = start;
        for (_, (hole, after)) in holes.iter().filter(|(there, _)| *there) {
            // Low memory's holes are sorted and apart; TSEG may overlap the others in a tiny VM only.
            let until = end.min(*hole).min(low);
            if from < until {
                sections.push(Section { block, offset: from - start, address: from, size: until - from });
            }
            from = from.max(*after);
        }
        let until = end.min(low);
        if from < until {
            sections.push(Section { block, offset: from - start, address: from, size: until - from });
        }
        let from = start.max(low);
        if from < end {
            let address = (4 * GIB).saturating_add(from - low);
            sections.push(Section { block, offset: from - start, address, size: end - from });
        }
        start = end;
    }
    sections
}

/// Returns the slots of `<memory model=…>` among the devices. Each has a RAM block that is never joined with another.
fn memory_device(device: &Element) -> MemorySlots {
    match device.attribute("model") {
        // QEMU counts no memory that is read-only; whether it is, libvirt versions differ in.
        Some("nvdimm" | "virtio-pmem") if device.child("target").is_some_and(|it| it.child("readonly").is_some()) => {
            MemorySlots::up_to(1)
        }
        Some("virtio-mem") => MemorySlots { at_least: 1, at_most: dynamic_slots(device) },
        // A DIMM has a file descriptor if its memory is shared, which the cell's attribute or the domain's makes it.
        Some("dimm" | "nvdimm" | "virtio-pmem" | "sgx-epc") => MemorySlots::exactly(1),
        _ => MemorySlots::up_to(DYNAMIC_SLOTS),
    }
}

/// Most slots that a virtio-mem device uses or reserves (`virtio_mem_decide_memslots`).
fn dynamic_slots(device: &Element) -> u32 {
    if device.child_attribute("target", "dynamicMemslots") != Some("yes") {
        return 1;
    }
    let slots = device_size(device).map_or(u64::MAX, |size| size.div_ceil(DYNAMIC_SLOT_SIZE));
    u32::try_from(slots).unwrap_or(u32::MAX).clamp(1, DYNAMIC_SLOTS)
}

/// Returns true for a virtio-mem device that may have chosen several slots: QEMU then insists on 509.
fn decides_by_itself(device: &Element) -> bool {
    device.attribute("model") == Some("virtio-mem") && dynamic_slots(device) > 1
}

fn device_size(device: &Element) -> Option<u64> {
    device.child("target").and_then(|target| target.child("size")).and_then(size)
}

/// Returns the pages that Hyper-V's SynIC puts over RAM, two for each vCPU that the guest enables it on
/// (`synic_update`). RAM in small pages is in more pieces then.
fn synic(domain: &Element) -> MemorySlots {
    let Some(hyperv) = domain.child("features").and_then(|features| features.child("hyperv")) else {
        return MemorySlots::default();
    };
    if hyperv.attribute("mode") != Some("passthrough") && hyperv.child_attribute("synic", "state") != Some("on") {
        return MemorySlots::default();
    }
    let vcpus = domain.child("vcpu").and_then(|vcpu| vcpu.text().parse::<u32>().ok()).unwrap_or(u32::MAX);
    MemorySlots::up_to(vcpus.saturating_mul(2))
}

/// Returns true if the domain has memory that the rest of the XML doesn't describe: arguments of QEMU's, properties
/// that override libvirt's, Xen's grant pages.
fn has_unknown_memory(domain: &Element) -> bool {
    let xen = domain.child("features").is_some_and(|features| features.child("xen").is_some());
    xen || !qemu_arguments(domain).is_empty() || domain.child("qemu:override").is_some()
}

/// Returns what `<qemu:commandline>` adds.
pub(super) fn qemu_arguments(domain: &Element) -> Vec<&str> {
    let arguments = domain.children("qemu:commandline").flat_map(|it| it.children("qemu:arg"));
    arguments.map(|argument| argument.attribute("value").unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests;
