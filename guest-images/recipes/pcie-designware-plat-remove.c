/* SPDX-License-Identifier: GPL-2.0 */
/*
 * rcvm: teardown of pcie-designware-plat, inserted into pcie-designware-plat.c by the recipe "pcie-designware-plat-modular".
 * This driver has no link op, no clocks, no INTx domain: the core's part and the mappings are all there is.
 */

/* dw_pcie_host_deinit() calls stop_link when the bus is gone, with the MSI domains still there. */
static const struct dw_pcie_ops dw_plat_pcie_removal_ops = {
	.stop_link = rcvm_dwc_disarm,
};

static void dw_plat_pcie_teardown(struct platform_device *pdev)
{
	struct dw_plat_pcie *dw_plat_pcie = platform_get_drvdata(pdev);
	struct dw_pcie *pci = dw_plat_pcie->pci;

	pci->ops = &dw_plat_pcie_removal_ops;
	rcvm_dwc_host_deinit(&pci->pp);

	rcvm_dwc_dispose_gic_intx(pdev->dev.of_node);
	rcvm_dwc_dispose_msi_lines(&pci->pp);
	irq_dispose_mapping(pci->pp.irq);
}

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
static int dw_plat_pcie_remove(struct platform_device *pdev)
{
	dw_plat_pcie_teardown(pdev);
	return 0;
}
#else
static void dw_plat_pcie_remove(struct platform_device *pdev)
{
	dw_plat_pcie_teardown(pdev);
}
#endif

