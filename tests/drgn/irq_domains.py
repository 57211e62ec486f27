#!/usr/bin/env drgn
# Prints the IRQ domains and descriptors in a core: what the guest's debugfs would have said, when the guest can say nothing
# any more. Usage: drgn -c core.elf -s vmlinux tests/drgn/irq_domains.py
#
# Sources: struct irq_domain in include/linux/irqdomain.h, struct irq_desc in include/linux/irqdesc.h (Linux 6.1, 6.12, 7.3).
# Fields between are tabs, so that a test can read them; an empty field is "-".

from drgn.helpers.linux.irq import for_each_irq_desc
from drgn.helpers.linux.list import list_for_each_entry


def text(pointer):
    return pointer.string_().decode(errors="replace") if pointer else "-"


def actions(desc):
    names = []
    action = desc.action
    while action:
        names.append(text(action.name))
        action = action.next
    return ",".join(names) or "-"


for domain in list_for_each_entry("struct irq_domain", prog["irq_domain_list"].address_of_(), "link"):
    parent = text(domain.parent.name) if domain.parent else "-"
    print("domain", text(domain.name), domain.mapcount.value_(), parent, sep="\t")

for virq, desc in for_each_irq_desc(prog):
    data = desc.irq_data
    domain = text(data.domain.name) if data.domain else "-"
    print("irq", virq, hex(data.hwirq.value_()), domain, actions(desc), sep="\t")
