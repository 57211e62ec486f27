//! Plans, cycles, checks, findings, verdicts and reports.
