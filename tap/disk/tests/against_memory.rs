//! The file device does what the memory device does, whatever is asked of it in whatever order.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tap_block::device::run;
use tap_block::memory::MemoryDevice;
use tap_block::{BlockDevice, Extent, Op};
use tap_disk::{FileDevice, FileOptions};

/// Not whole blocks, so that the end of the file is met.
const SIZE: u64 = 200_000 + 77;

fn extents() -> impl Strategy<Value = Extent> {
    // Some reach past the end.
    (0..SIZE + 100, 0..20_000_u64).prop_map(|(offset, length)| Extent::new(offset, length).unwrap())
}

fn operations() -> impl Strategy<Value = Op> {
    prop_oneof![
        extents().prop_map(|extent| Op::Read { extent }),
        (0..SIZE + 10, vec(any::<u8>(), 0..9000), any::<bool>()).prop_map(|(offset, data, fua)| Op::Write {
            offset,
            data: Bytes::from(data),
            fua
        }),
        (extents(), any::<bool>(), any::<bool>()).prop_map(|(extent, fua, may_trim)| Op::Zero {
            extent,
            fua,
            may_trim,
            fast: false
        }),
        (extents(), any::<bool>()).prop_map(|(extent, fua)| Op::Trim { extent, fua }),
        Just(Op::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_file_behaves_as_memory_does(start in any::<u8>(), operations in vec(operations(), 1..60)) {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("disk.img");
        let content = vec![start; SIZE.try_into().unwrap()];
        std::fs::write(&path, &content).unwrap();
        let file = FileDevice::open(&path, FileOptions::default()).unwrap();
        prop_assume!(file.trims());
        let memory = MemoryDevice::with_content(content);
        prop_assert_eq!(file.geometry(), memory.geometry());
        for op in operations {
            prop_assert_eq!(run(&*file, op.clone()), run(&memory, op));
        }
        prop_assert_eq!(std::fs::read(&path).unwrap(), memory.content());
        check_holes(&file, &memory.content())?;
    }
}

/// Everything outside the data extents is zero, and they come in order.
fn check_holes(file: &FileDevice, content: &[u8]) -> Result<(), TestCaseError> {
    let mut at = 0;
    while let Some(data) = file.data_extents(at).unwrap() {
        prop_assert!(data.offset() >= at && !data.is_empty() && data.end() <= SIZE);
        prop_assert!(is_zero(content, at, data.offset()));
        at = data.end();
    }
    prop_assert!(is_zero(content, at, SIZE));
    Ok(())
}

fn is_zero(content: &[u8], from: u64, to: u64) -> bool {
    let index = |n: u64| usize::try_from(n).unwrap();
    content[index(from)..index(to)].iter().all(|b| *b == 0)
}
