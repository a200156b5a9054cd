use super::*;

const MEMFD: &str = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>";
const FILE: &str = "<memoryBacking><access mode='shared'/></memoryBacking>";
const HUGE: &str = "<memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages><source type='memfd'/>\
                    <access mode='shared'/></memoryBacking>";
const Q35: &str = "pc-q35-10.0";
const I440FX: &str = "pc-i440fx-10.0";
const VGA: &str = "<video><model type='vga' vram='16384' heads='1' primary='yes'/><alias name='video0'/></video>";
const UEFI: &str = "<loader readonly='yes' secure='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>";

/// A domain as libvirt describes it; `memory` is what stands before `<vcpu>`, `os` what stands in `<os>`.
struct Domain<'a> {
    machine: &'a str,
    memory: String,
    os: &'a str,
    features: &'a str,
    cells: String,
    devices: String,
    rest: &'a str,
}

impl Default for Domain<'_> {
    fn default() -> Self {
        Self {
            machine: Q35,
            memory: MEMFD.to_owned(),
            os: "",
            features: "<acpi/><apic/>",
            cells: cells(&[256]),
            devices: VGA.to_owned(),
            rest: "",
        }
    }
}

impl Domain<'_> {
    fn slots(&self) -> (u32, u32) {
        self.slots_on("x86_64")
    }

    fn slots_on(&self, arch: &str) -> (u32, u32) {
        let Self { machine, memory, os, features, cells, devices, rest } = self;
        let domain = format!(
            "<domain type='kvm' id='1' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>{memory}
             <vcpu placement='static' current='2'>4</vcpu><os><type arch='{arch}' machine='{machine}'>hvm</type>{os}</os>
             <features>{features}</features><cpu mode='custom'>{cells}</cpu><devices>{devices}
             <controller type='pci' index='0' model='pcie-root'/></devices>{rest}</domain>"
        );
        let slots = MemorySlots::of(&Element::parse(&domain).unwrap());
        (slots.at_least, slots.at_most)
    }
}

/// `<numa>` with cells of these sizes in MiB.
fn cells(sizes: &[u64]) -> String {
    let cell =
        |(id, size)| format!("<cell id='{id}' cpus='{id}' memory='{}' unit='KiB' memAccess='shared'/>", size * 1024);
    format!("<numa>{}</numa>", sizes.iter().enumerate().map(cell).collect::<String>())
}

/// `<memory>` of a domain without cells.
fn whole(mib: u64, backing: &str) -> String {
    format!("<memory unit='KiB'>{}</memory>{backing}", mib * 1024)
}

fn device(model: &str, attributes: &str, mib: u64) -> String {
    format!(
        "<memory model='{model}'><source/><target{attributes}><size unit='KiB'>{}</size><node>0</node></target>
         <alias name='dimm0'/></memory>",
        mib * 1024
    )
}

#[test]
fn low_memory_is_split_by_vga_unless_its_pages_are_huge() {
    // Measured: QEMU 10.0 with SeaBIOS. Without VGA, the firmware's PAM registers decide.
    let none = "<video><model type='none'/></video>";
    for (memory, devices, slots) in [
        (MEMFD, none, (1, 2)),
        (MEMFD, "", (1, 2)),
        (MEMFD, VGA, (2, 2)),
        (HUGE, VGA, (1, 1)),
        (HUGE, none, (1, 1)),
        (FILE, VGA, (1, 2)),
        (MEMFD, "<video><model type='virtio' primary='yes'/></video>", (1, 2)),
        (MEMFD, "<video><model type='bochs' primary='yes'/></video>", (1, 2)),
    ] {
        let domain = Domain { memory: memory.to_owned(), devices: devices.to_owned(), ..Domain::default() };
        assert_eq!(domain.slots(), slots, "{memory} {devices}");
    }
}

#[test]
fn each_cell_and_each_dimm_is_a_region() {
    for (count, dimms, slots) in [(5, 0, (5, 6)), (5, 3, (8, 9)), (8, 0, (8, 9)), (9, 0, (9, 10)), (1, 15, (16, 17))] {
        let cells = cells(&vec![32; count]);
        let devices = device("dimm", "", 32).repeat(dimms);
        assert_eq!(Domain { cells, devices, ..Domain::default() }.slots(), slots, "{count} cells, {dimms} DIMMs");
    }
    assert_eq!(Domain { cells: cells(&[0, 256, 0]), ..Domain::default() }.slots(), (2, 2), "empty cells");
}

#[test]
fn memory_is_split_below_4_gib() {
    for (machine, mib, slots) in [
        (Q35, 2815, 2),
        (Q35, 2816, 3),
        (Q35, 8192, 3),
        (I440FX, 3583, 2),
        (I440FX, 3584, 3),
        ("pc-i440fx-rhel7.6.0", 3584, 3),
        ("pc", 3584, 3),
        ("pc-i440fx-1.7", 4096, 3),
    ] {
        let memory = whole(mib, MEMFD);
        let domain = Domain { machine, memory, cells: String::new(), ..Domain::default() };
        assert_eq!(domain.slots(), (slots, slots), "{machine} {mib} MiB");
        let memory = whole(mib, HUGE);
        let domain = Domain { machine, memory, cells: String::new(), ..Domain::default() };
        assert_eq!(domain.slots(), (slots - 1, slots - 1), "{machine} {mib} MiB in huge pages");
    }
}

#[test]
fn a_cell_that_spans_the_hole_is_two_regions() {
    for (machine, sizes, slots) in [
        (Q35, &[2048, 2048][..], (3, 3)),
        (Q35, &[3072, 1024], (4, 4)),
        (Q35, &[1024, 1024, 1024, 1024], (5, 5)),
        (I440FX, &[2048, 2048], (4, 4)),
        (I440FX, &[3072, 1024], (3, 3)),
        // The split is at 3 or at 3.5 GiB.
        ("pc-i440fx-1.7", &[3072, 1024], (3, 4)),
    ] {
        assert_eq!(Domain { machine, cells: cells(sizes), ..Domain::default() }.slots(), slots, "{machine} {sizes:?}");
    }
}

#[test]
fn memory_devices_are_not_the_machines_own_memory() {
    let devices = VGA.to_owned() + &device("virtio-mem", "", 2048);
    // 2 GiB of its own, which q35 doesn't split.
    let domain = Domain { memory: whole(4096, MEMFD), cells: String::new(), devices, ..Domain::default() };
    assert_eq!(domain.slots(), (3, 3));
}

#[test]
fn huge_pages_of_one_cell_join_only_its_pieces() {
    let page = |nodes: &str| {
        format!(
            "<memoryBacking><hugepages><page size='2048' unit='KiB' nodeset='{nodes}'/></hugepages>\
             <source type='memfd'/></memoryBacking>"
        )
    };
    for (nodes, slots) in [("0", (2, 2)), ("0-1", (2, 2)), ("1", (3, 3)), ("0-3,^0", (3, 3)), ("junk,5-,-", (3, 3))] {
        let domain = Domain { memory: page(nodes), cells: cells(&[256, 256]), ..Domain::default() };
        assert_eq!(domain.slots(), slots, "{nodes}");
    }
    let general = "<memoryBacking><hugepages/><source type='memfd'/></memoryBacking>";
    assert_eq!(Domain { memory: general.to_owned(), ..Domain::default() }.slots(), (1, 1));
    let small = HUGE.replace("2048", "4");
    assert_eq!(Domain { memory: small, ..Domain::default() }.slots(), (2, 2));
}

#[test]
fn smm_hides_memory_where_the_firmware_uses_it() {
    let smm = "<smm state='on'><tseg unit='MiB'>48</tseg></smm>";
    for (os, features, sizes, slots) in [
        ("", "", &[256, 256][..], (3, 3)),
        (UEFI, smm, &[256, 256], (3, 4)),
        (UEFI, "", &[256, 256], (3, 4)),
        (UEFI, "<smm state='off'/>", &[256, 256], (3, 3)),
        // TSEG hides the last cell.
        (UEFI, smm, &[256, 48], (2, 4)),
        (UEFI, "<smm state='on'/>", &[256, 48], (3, 4)),
        (UEFI, "<smm state='on'/>", &[256, 16], (2, 4)),
    ] {
        let domain = Domain { os, features, cells: cells(sizes), ..Domain::default() };
        assert_eq!(domain.slots(), slots, "{os} {features} {sizes:?}");
        let machine = I440FX;
        assert_eq!(Domain { machine, ..domain }.slots().1, 3, "{features} {sizes:?}");
    }
}

#[test]
fn memory_devices_count_by_their_model() {
    for (device, slots) in [
        (device("dimm", "", 1024), (3, 3)),
        (device("nvdimm", "", 1024), (3, 3)),
        (device("nvdimm", "", 1024).replace("<node>", "<readonly/><node>"), (2, 3)),
        (device("virtio-pmem", "", 1024), (3, 3)),
        (device("sgx-epc", "", 16), (3, 3)),
        (device("virtio-mem", "", 8192), (3, 3)),
        (device("virtio-mem", " dynamicMemslots='no'", 8192), (3, 3)),
        // One slot, and so no decision.
        (device("virtio-mem", " dynamicMemslots='yes'", 1024), (3, 3)),
        (device("virtio-mem", " dynamicMemslots='yes'", 8192), (3, 509)),
        (device("virtio-mem", " dynamicMemslots='yes'", 1 << 40).repeat(3), (5, 770)),
        (device("later", "", 1024), (2, 258)),
        ("<shmem name='s'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>".to_owned(), (2, 3)),
    ] {
        let domain = Domain { devices: format!("{VGA}{device}"), ..Domain::default() };
        assert_eq!(domain.slots(), slots, "{device}");
    }
}

#[test]
fn what_the_guest_or_the_xml_adds_raises_the_upper_bound() {
    let arguments = "<qemu:commandline><qemu:arg value='-device'/><qemu:arg value='x'/></qemu:commandline>";
    let split = "<qemu:commandline><qemu:arg value='pc,max-ram-below-4g=4G'/></qemu:commandline>";
    let domain = |features, rest| Domain { features, rest, ..Domain::default() };
    assert_eq!(domain("<hyperv mode='custom'><synic state='on'/></hyperv>", "").slots(), (2, 10));
    assert_eq!(domain("<hyperv mode='passthrough'/>", "").slots(), (2, 10));
    assert_eq!(domain("<hyperv mode='custom'><relaxed state='on'/></hyperv>", "").slots(), (2, 2));
    let huge = Domain { memory: HUGE.to_owned(), ..domain("<hyperv><synic state='on'/></hyperv>", "") };
    assert_eq!(huge.slots(), (1, 1));
    assert_eq!(domain("<xen/>", "").slots(), (2, u32::MAX));
    assert_eq!(domain("", arguments).slots(), (2, u32::MAX));
    assert_eq!(domain("", "<qemu:override/>").slots(), (2, u32::MAX));
    let large = Domain { cells: cells(&[4096]), ..domain("", split) };
    assert_eq!(large.slots(), (2, u32::MAX));
}

#[test]
fn other_machines_have_a_region_for_each_cell() {
    let domain = |machine| Domain { machine, cells: cells(&[2048, 2048, 2048]), ..Domain::default() };
    assert_eq!(domain("virt-10.0").slots_on("aarch64"), (3, 3));
    assert_eq!(domain("virt").slots_on("loongarch64"), (3, u32::MAX));
    assert_eq!(domain("microvm").slots(), (3, u32::MAX));
}

#[test]
fn no_xml_is_too_odd() {
    let unknown = (1, u32::MAX);
    let of = |text: &str| {
        let slots = MemorySlots::of(&Element::parse(text).unwrap());
        (slots.at_least, slots.at_most)
    };
    assert_eq!(of("<domain/>"), unknown);
    assert_eq!(of("<domain><memory>5</memory><devices/></domain>"), unknown);
    for cell in ["", "id='0'", "id='-1' memory='1'", "id='0' memory='x'", "id='0' memory='1' unit='parsec'"] {
        let cells = format!("<numa><cell {cell}/></numa>");
        assert_eq!(Domain { cells, ..Domain::default() }.slots(), unknown, "{cell}");
    }
    let most = u64::MAX / 1024;
    let cell = |id: u32, size: u64| format!("<cell id='{id}' memory='{size}' unit='KiB'/>");
    for machine in [Q35, I440FX] {
        for memory in [MEMFD, HUGE, FILE, &HUGE.replace("2048", &(1_u64 << 53).to_string())] {
            for os in ["", UEFI] {
                for sizes in [&[most, most][..], &[0, most], &[1, 1, 1], &[767, 513, most], &[0], &[u64::MAX, 1]] {
                    let cells: String = (0..).zip(sizes).map(|(id, size)| cell(id, *size)).collect();
                    let cells = format!("<numa>{cells}</numa>");
                    let domain = Domain { machine, memory: memory.to_owned(), os, cells, ..Domain::default() };
                    let (least, most) = domain.slots();
                    assert!(least <= most, "{machine} {memory} {os} {sizes:?}: {least} {most}");
                }
            }
        }
    }
    let devices = device("virtio-mem", " dynamicMemslots='yes'", most >> 10);
    assert_eq!(Domain { devices, ..Domain::default() }.slots(), (2, 509));
    let many = Domain { cells: cells(&vec![1; 3000]), ..Domain::default() };
    assert_eq!(many.slots(), (3000, 3001));
}
