/* SPDX-License-Identifier: GPL-2.0 */
/*
 * rcvm: the parts of a removal that the wrappers' drivers share, inserted before each one's own by the recipes.
 */

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
#define rcvm_iatu_unroll(pci)	((pci)->iatu_unroll_enabled)
#else
#define rcvm_iatu_unroll(pci)	dw_pcie_cap_is(pci, IATU_UNROLL)
#endif
#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 0, 0)
#define rcvm_has_imsi_rx(pp)	((pp)->has_msi_ctrl)
#else
#define rcvm_has_imsi_rx(pp)	((pp)->use_imsi_rx)
#endif

/* dw_pcie_disable_atu() is not exported; unrolled or through the viewport, CTRL2 = 0 is all it does. */
static void rcvm_dwc_disable_atu(struct dw_pcie *pci, u32 dir, u32 index)
{
	void __iomem *base = pci->atu_base;

	if (rcvm_iatu_unroll(pci))
		base += PCIE_ATU_UNROLL_BASE(dir, index);
	else
		dw_pcie_writel_dbi(pci, PCIE_ATU_VIEWPORT, dir | index);
	writel(0, base + PCIE_ATU_REGION_CTRL2);
}

/* To be called when the bus is gone and the link is stopped, with clocks on and the MSI domains still there. */
static void rcvm_dwc_disarm(struct dw_pcie *pci)
{
	u32 ctrl, i;

	/*
	 * Set-up never clears STATUS: what stays latched here would fire at the first unmask of the next life. MASK before
	 * ENABLE, so that nothing slips through in between.
	 */
	if (rcvm_has_imsi_rx(&pci->pp)) {
		for (ctrl = 0; ctrl < MAX_MSI_CTRLS; ctrl++) {
			u32 off = ctrl * MSI_REG_CTRL_BLOCK_SIZE;

			dw_pcie_writel_dbi(pci, PCIE_MSI_INTR0_MASK + off, ~0);
			dw_pcie_writel_dbi(pci, PCIE_MSI_INTR0_ENABLE + off, 0);
			dw_pcie_writel_dbi(pci, PCIE_MSI_INTR0_STATUS + off, ~0);
		}
		dw_pcie_writel_dbi(pci, PCIE_MSI_ADDR_LO, 0);
		dw_pcie_writel_dbi(pci, PCIE_MSI_ADDR_HI, 0);
	}

	for (i = 0; i < pci->num_ob_windows; i++)
		rcvm_dwc_disable_atu(pci, PCIE_ATU_REGION_DIR_OB, i);
	for (i = 0; i < pci->num_ib_windows; i++)
		rcvm_dwc_disable_atu(pci, PCIE_ATU_REGION_DIR_IB, i);

	/* The core clears MASTER at most; IO, MEM and SERR were set by dw_pcie_setup_rc(). */
	dw_pcie_writew_dbi(pci, PCI_COMMAND, 0);
}

/* Root bus and MSI domains; from 7.0 on the core takes the rescan lock itself. */
static void rcvm_dwc_host_deinit(struct dw_pcie_rp *pp)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 0, 0)
	pci_lock_rescan_remove();
	dw_pcie_host_deinit(pp);
	pci_unlock_rescan_remove();
#else
	dw_pcie_host_deinit(pp);
#endif
}

/* What platform_get_irq*() mapped for iMSI-RX stays mapped when its handler is gone. */
static void rcvm_dwc_dispose_msi_lines(struct dw_pcie_rp *pp)
{
	int i;

	for (i = 0; i < MAX_MSI_CTRLS; i++)
		if (pp->msi_irq[i] > 0)
			irq_dispose_mapping(pp->msi_irq[i]);
}

/*
 * INTx mappings: made by the PCI core for the children (of_irq_parse_and_map_pci), in the domain of the GIC, and
 * disposed of by nobody. Only the host bridge can tell when their users are gone: now. irq_create_of_mapping() returns the
 * existing mapping; for a pin that was never used it makes one, which goes at once.
 */
static void __maybe_unused rcvm_dwc_dispose_gic_intx(struct device_node *np)
{
	__be32 laddr[3] = { 0, 0, 0 };
	struct of_phandle_args oirq;
	unsigned int virq;
	u32 pin;

	for (pin = 1; pin <= PCI_NUM_INTX; pin++) {
		oirq.np = np;
		oirq.args_count = 1;
		oirq.args[0] = pin;
		if (of_irq_parse_raw(laddr, &oirq))
			continue;
		virq = irq_create_of_mapping(&oirq);
		of_node_put(oirq.np);
		if (virq)
			irq_dispose_mapping(virq);
	}
}

