//! Commands and completions as they lie in the queues (NVMe 1.4 §4.2, §4.6).

use serde::Deserialize;
use serde::Serialize;

/// Bytes of a submission queue entry.
pub const SQE_BYTES: usize = 64;
/// Bytes of a completion queue entry.
pub const CQE_BYTES: usize = 16;
/// The namespace.
pub const NSID: u32 = 1;
/// All namespaces.
pub const NSID_ALL: u32 = u32::MAX;

/// Admin opcodes (NVMe 1.4 §5).
pub mod admin {
    /// Delete I/O Submission Queue.
    pub const DELETE_SQ: u8 = 0x00;
    /// Create I/O Submission Queue.
    pub const CREATE_SQ: u8 = 0x01;
    /// Get Log Page.
    pub const GET_LOG_PAGE: u8 = 0x02;
    /// Delete I/O Completion Queue.
    pub const DELETE_CQ: u8 = 0x04;
    /// Create I/O Completion Queue.
    pub const CREATE_CQ: u8 = 0x05;
    /// Identify.
    pub const IDENTIFY: u8 = 0x06;
    /// Abort.
    pub const ABORT: u8 = 0x08;
    /// Set Features.
    pub const SET_FEATURES: u8 = 0x09;
    /// Get Features.
    pub const GET_FEATURES: u8 = 0x0a;
    /// Asynchronous Event Request.
    pub const ASYNC_EVENT: u8 = 0x0c;
    /// Doorbell Buffer Config.
    pub const DOORBELL_BUFFER: u8 = 0x7c;
}

/// NVM command set opcodes (NVMe 1.4 §6).
pub mod nvm {
    /// Flush.
    pub const FLUSH: u8 = 0x00;
    /// Write.
    pub const WRITE: u8 = 0x01;
    /// Read.
    pub const READ: u8 = 0x02;
    /// Write Zeroes.
    pub const WRITE_ZEROES: u8 = 0x08;
    /// Dataset Management.
    pub const DSM: u8 = 0x09;
}

/// A command, as far as the controller looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Opcode.
    pub opcode: u8,
    /// FUSE and PSDT.
    pub flags: u8,
    /// Command identifier.
    pub cid: u16,
    /// Namespace.
    pub nsid: u32,
    /// PRP entry 1.
    pub prp1: u64,
    /// PRP entry 2.
    pub prp2: u64,
    /// Command dword 10.
    pub cdw10: u32,
    /// Command dword 11.
    pub cdw11: u32,
    /// Command dword 12.
    pub cdw12: u32,
    /// Command dword 13.
    pub cdw13: u32,
}

impl Command {
    /// The command in a submission queue entry.
    pub fn decode(sqe: &[u8; SQE_BYTES]) -> Command {
        let (words, _) = sqe.as_chunks::<4>();
        let dw = |n: usize| u32::from_le_bytes(words[n]);
        let qw = |n: usize| u64::from(dw(n)) | u64::from(dw(n + 1)) << 32;
        Command {
            opcode: sqe[0],
            flags: sqe[1],
            cid: (dw(0) >> 16) as u16,
            nsid: dw(1),
            prp1: qw(6),
            prp2: qw(8),
            cdw10: dw(10),
            cdw11: dw(11),
            cdw12: dw(12),
            cdw13: dw(13),
        }
    }

    /// Starting LBA of an I/O command.
    pub fn slba(&self) -> u64 {
        u64::from(self.cdw10) | u64::from(self.cdw11) << 32
    }

    /// Blocks of an I/O command; the field is 0's based.
    pub fn blocks(&self) -> u32 {
        (self.cdw12 & 0xffff) + 1
    }

    /// Whether it is part of a fused operation or uses SGLs: neither is supported.
    pub fn is_fused_or_sgl(&self) -> bool {
        self.flags & 0xc3 != 0
    }
}

/// The status field of a completion without its phase tag: type, code and Do Not Retry (NVMe 1.4 §4.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

/// Do Not Retry.
pub const DNR: u16 = 0x4000;

impl Status {
    /// Successful Completion.
    pub const SUCCESS: Status = Status(0);
    /// Invalid Command Opcode.
    pub const INVALID_OPCODE: Status = Status(0x001 | DNR);
    /// Invalid Field in Command.
    pub const INVALID_FIELD: Status = Status(0x002 | DNR);
    /// Data Transfer Error.
    pub const DATA_TRANSFER: Status = Status(0x004);
    /// Command Abort Requested.
    pub const ABORT_REQUESTED: Status = Status(0x007);
    /// Command Aborted due to SQ Deletion.
    pub const SQ_DELETED: Status = Status(0x008);
    /// Invalid Namespace or Format.
    pub const INVALID_NAMESPACE: Status = Status(0x00b | DNR);
    /// PRP Offset Invalid.
    pub const PRP_OFFSET: Status = Status(0x013 | DNR);
    /// LBA Out of Range.
    pub const LBA_RANGE: Status = Status(0x080 | DNR);
    /// Completion Queue Invalid.
    pub const CQ_INVALID: Status = Status(0x100 | DNR);
    /// Invalid Queue Identifier.
    pub const QUEUE_ID: Status = Status(0x101 | DNR);
    /// Invalid Queue Size.
    pub const QUEUE_SIZE: Status = Status(0x102 | DNR);
    /// Asynchronous Event Request Limit Exceeded.
    pub const ASYNC_LIMIT: Status = Status(0x105 | DNR);
    /// Invalid Interrupt Vector.
    pub const VECTOR: Status = Status(0x108 | DNR);
    /// Invalid Log Page.
    pub const LOG_PAGE: Status = Status(0x109 | DNR);
    /// Invalid Queue Deletion.
    pub const QUEUE_DELETION: Status = Status(0x10c | DNR);
    /// Feature Identifier Not Saveable.
    pub const NOT_SAVEABLE: Status = Status(0x10d | DNR);
    /// Feature Not Changeable.
    pub const NOT_CHANGEABLE: Status = Status(0x10e | DNR);
    /// Feature Not Namespace Specific.
    pub const NOT_PER_NAMESPACE: Status = Status(0x10f | DNR);
    /// Namespace is Write Protected.
    pub const WRITE_PROTECTED: Status = Status(0x020 | DNR);
    /// Write Fault.
    pub const WRITE_FAULT: Status = Status(0x280);
    /// Unrecovered Read Error.
    pub const READ_ERROR: Status = Status(0x281);
}

/// How a command ends: dword 0 of its completion, or why it failed.
pub type Reply = Result<u32, Status>;

/// One completion.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Dword 0.
    pub result: u32,
    /// Head of the submission queue.
    pub sq_head: u16,
    /// Submission queue.
    pub sq: u16,
    /// Command identifier.
    pub cid: u16,
    /// Status.
    pub status: Status,
}

impl Entry {
    /// The entry as it goes to the queue, with its phase tag.
    pub fn encode(&self, phase: bool) -> [u8; CQE_BYTES] {
        let dw2 = u32::from(self.sq_head) | u32::from(self.sq) << 16;
        let dw3 = u32::from(self.cid) | u32::from(phase) << 16 | u32::from(self.status.0) << 17;
        let low = u128::from(self.result);
        (low | u128::from(dw2) << 64 | u128::from(dw3) << 96).to_le_bytes()
    }
}
