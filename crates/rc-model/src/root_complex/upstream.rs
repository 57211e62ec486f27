//! The way up: memory requests of the endpoint, gate by gate.
//!
//! Function BME → bridge BME → link → iMSI-RX address match → inbound iATU → memory. An MSI is nothing but a
//! memory write that meets the controller's address on its way.

use block::Cx;
use msi_ctrl::Match;
use pcie::Bdf;
use pcie::Completion;
use pcie::ErrorMessage;
use pcie::LinkFailure;
use pcie::Rate;
use pcie::Upstream;

use super::controller::Controller;
use super::observer::Kind;
use crate::dbi::ras_des::Count;
use crate::event::Effect;
use crate::event::Event;

/// Writes to the page that the MSI address was last in are suspect: Linux 6.x gives it a page of its own (spec §2.6).
const PAGE_SHIFT: u32 = 12;

/// One memory request, for events.
#[derive(Clone, Copy)]
struct Request {
    rid: Bdf,
    addr: u64,
    write: bool,
}

impl Controller {
    fn refuse(
        &mut self,
        cx: &mut Cx<'_, Event>,
        r: Request,
        gate: &'static str,
        status: Completion,
    ) -> Completion {
        self.observer.counts.dma_refused += 1;
        self.observer.emit(cx, Kind::Dma, || Event::DmaRefused {
            rid: r.rid,
            addr: r.addr,
            write: r.write,
            status,
            gate: gate.to_owned(),
        });
        status
    }

    /// A request arrives over the link, if there is one and the function may send it.
    fn receive(&mut self, what: Count, bme: bool) {
        if bme && self.link.up() {
            self.dbi.count(what);
            self.dbi.received_tlp();
        }
    }

    /// The gates that every request passes before its address counts.
    fn admit(&self, bme: bool) -> Result<(), (&'static str, Completion)> {
        if !bme {
            Err(("function-bme", Completion::UnsupportedRequest))
        } else if !self.dbi.bme() {
            Err(("bridge-bme", Completion::UnsupportedRequest))
        } else if !self.link.up() {
            Err(("link", Completion::Timeout))
        } else {
            Ok(())
        }
    }

    /// Translate, then let `access` touch memory.
    fn access_memory(
        &mut self,
        cx: &mut Cx<'_, Event>,
        r: Request,
        len: usize,
        access: impl FnOnce(&mut Cx<'_, Event>, u64) -> bool,
    ) -> Completion {
        let Some(addr) = self.iatu.inbound(r.addr, len as u64) else {
            return self.refuse(cx, r, "iatu", Completion::UnsupportedRequest);
        };
        if !access(cx, addr) {
            return self.refuse(cx, r, "memory", Completion::UnsupportedRequest);
        }
        Completion::Success
    }

    fn rogue(&mut self, cx: &mut Cx<'_, Event>, rid: Bdf, addr: u64, data: u32) {
        self.observer.counts.rogue_msi += 1;
        self.observer.emit(cx, Kind::Rogue, || Event::RogueMsi { rid, addr, data });
    }

    /// Whether a four-byte write that missed the controller looks like an MSI meant for it.
    fn looks_like_msi(&self, addr: u64) -> bool {
        self.msi.addr() == 0 && !self.has_its()
            || self.observer.last_msi_addr.is_some_and(|last| last >> PAGE_SHIFT == addr >> PAGE_SHIFT)
    }

    /// Offer a write to the machine's ITS, if it has one. Returns whether it was taken.
    fn send_to_its(&mut self, rid: Bdf, addr: u64, bytes: &[u8]) -> bool {
        let Ok(word) = <[u8; 4]>::try_from(bytes) else { return false };
        if !self.is_its(addr) {
            return false;
        }
        self.observer.counts.msi += 1;
        self.effects.push(Effect::ItsMsi { rid, addr, data: u32::from_le_bytes(word) });
        true
    }

    /// Offer a write to the iMSI-RX. Returns whether it was consumed.
    fn receive_msi(&mut self, cx: &mut Cx<'_, Event>, rid: Bdf, addr: u64, bytes: &[u8]) -> bool {
        let mut word = [0; 4];
        let n = bytes.len().min(4);
        word[..n].copy_from_slice(&bytes[..n]);
        let data = u32::from_le_bytes(word);
        match self.msi.mem_write(addr, data) {
            Match::Latched(vector) => {
                self.observer.counts.msi += 1;
                self.observer.emit(cx, Kind::Msi, || Event::Msi { rid, vector });
                true
            }
            Match::Ignored(_) => {
                self.rogue(cx, rid, addr, data);
                true
            }
            Match::Missed => {
                if bytes.len() == 4 && self.looks_like_msi(addr) {
                    self.rogue(cx, rid, addr, data);
                }
                false
            }
        }
    }
}

impl Upstream<Event> for Controller {
    fn mem_write(
        &mut self,
        cx: &mut Cx<'_, Event>,
        rid: Bdf,
        bme: bool,
        addr: u64,
        data: &[u8],
    ) -> Completion {
        let request = Request { rid, addr, write: true };
        self.receive(Count::RxMemoryWrite, bme);
        if let Err((gate, status)) = self.admit(bme) {
            return self.refuse(cx, request, gate, status);
        }
        if self.send_to_its(rid, addr, data) || self.receive_msi(cx, rid, addr, data) {
            return Completion::Success;
        }
        self.access_memory(cx, request, data.len(), |cx, to| cx.mem.write(to, data))
    }

    fn mem_read(
        &mut self,
        cx: &mut Cx<'_, Event>,
        rid: Bdf,
        bme: bool,
        addr: u64,
        buf: &mut [u8],
    ) -> Completion {
        let request = Request { rid, addr, write: false };
        self.receive(Count::RxMemoryRead, bme);
        let status = match self.admit(bme) {
            Ok(()) => self.access_memory(cx, request, buf.len(), |cx, from| cx.mem.read(from, buf)),
            Err((gate, status)) => self.refuse(cx, request, gate, status),
        };
        if status != Completion::Success {
            buf.fill(0xff);
        }
        status
    }

    fn pme(&mut self, _cx: &mut Cx<'_, Event>, rid: Bdf) {
        if self.link.up() {
            self.dbi.pme_message(rid);
        }
    }

    fn fail_link(&mut self, _cx: &mut Cx<'_, Event>, how: LinkFailure) {
        self.failure = Some(how);
    }

    fn link_rate(&self) -> Option<Rate> {
        self.link.up().then(|| self.dbi.rate())
    }

    fn error(&mut self, _cx: &mut Cx<'_, Event>, rid: Bdf, error: ErrorMessage) {
        if self.link.up() {
            self.dbi.error_message(rid, error);
        }
    }
}
