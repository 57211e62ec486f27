//! The KVM microVM.
