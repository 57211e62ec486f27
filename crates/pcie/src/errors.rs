//! Errors that a function finds by itself: what it latches, and what it tells the root.

use crate::config::regs as cfg;
use crate::config::regs::aer;
use crate::config::regs::exp;
use crate::ConfigSpace;
use crate::ErrorMessage;

/// A request that nobody here takes: latch the error, in the capabilities at `exp_at` and `aer_at` (PCIe §6.2.3.2.4, §6.2.5).
/// What is to be sent, where that is enabled.
pub fn unsupported(config: &mut ConfigSpace, exp_at: u32, aer_at: u32, posted: bool) -> Option<ErrorMessage> {
    let word = |off| config.word(aer_at + off);
    let (uncor, uncor_mask) = (word(aer::UNCOR_STATUS), word(aer::UNCOR_MASK));
    let fatal = word(aer::UNCOR_SEVERITY) & aer::UNSUPPORTED_REQUEST != 0;
    let (cor, cor_mask) = (word(aer::COR_STATUS), word(aer::COR_MASK));
    // The requester of a non-posted request learns of it by the completion; to the completer it is advisory.
    let advisory = !posted && !fatal;
    let (message, detected, enable) = match (fatal, advisory) {
        (true, _) => (ErrorMessage::Fatal, exp::DEVSTA_FED, exp::DEVCTL_FERE),
        (_, true) => (ErrorMessage::Correctable, exp::DEVSTA_CED, exp::DEVCTL_CERE),
        _ => (ErrorMessage::NonFatal, exp::DEVSTA_NFED, exp::DEVCTL_NFERE),
    };
    let mut masked = uncor_mask & aer::UNSUPPORTED_REQUEST != 0;
    config.set_word(aer_at + aer::UNCOR_STATUS, uncor | aer::UNSUPPORTED_REQUEST);
    if advisory {
        masked |= cor_mask & aer::ADVISORY_NON_FATAL != 0;
        config.set_word(aer_at + aer::COR_STATUS, cor | aer::ADVISORY_NON_FATAL);
    }
    let seen = exp::DEVSTA_URD | detected;
    config.update_half(exp_at + exp::DEVSTA, seen, seen);
    let devctl = config.half(exp_at + exp::DEVCTL);
    let serr = !advisory && config.command() & cfg::COMMAND_SERR != 0;
    let reports = devctl & exp::DEVCTL_URRE != 0 && devctl & enable != 0;
    (!masked && (reports || serr)).then_some(message)
}
