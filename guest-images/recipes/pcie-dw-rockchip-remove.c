/* SPDX-License-Identifier: GPL-2.0 */
/*
 * rcvm: teardown of pcie-dw-rockchip, inserted into pcie-dw-rockchip.c by the recipe "pcie-dw-rockchip-modular".
 *
 * The driver upstream cannot be removed. The order:
 *
 *   1. silence the "sys" interrupt, whose thread walks the bus                    (7.0 and newer request it)
 *   2. stop and remove the bus: endpoint drivers and port services give back MSIs and INTx
 *   3. stop the link and the endpoint, disarm the core, remove the MSI domains   (all in dw_pcie_host_deinit)
 *   4. INTx: mask at the controller, remove the chained handler and wait for it, dispose of each mapping, and only then
 *      remove the domain: irq_domain_remove() frees it whoever still points to it
 *   5. give back the mappings of the lines themselves
 *   6. power off the PHY, hold the core in reset, stop clocks and supply
 */

/* The client registers take a write mask in their high half. */
#define RCVM_HIWORD(mask, val)	(((u32)(mask) << 16) | (val))

/* dw_pcie_host_deinit() calls this when the bus is gone, with clocks on and the MSI domains still there. */
static void rockchip_pcie_removal_stop_link(struct dw_pcie *pci)
{
	struct rockchip_pcie *rockchip = to_rockchip_pcie(pci);

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
	rockchip_pcie_writel_apb(rockchip, RCVM_HIWORD(0xc, 0x8), PCIE_CLIENT_GENERAL_CONTROL);
#else
	rockchip_pcie_stop_link(pci);
#endif
	/* Stop DMA and MSIs at their source before their target is dismantled. */
	gpiod_set_value_cansleep(rockchip->rst_gpio, 0);

	rcvm_dwc_disarm(pci);
}

static const struct dw_pcie_ops rockchip_pcie_removal_ops = {
	.link_up = rockchip_pcie_link_up,
	.stop_link = rockchip_pcie_removal_stop_link,
};

#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 0, 0)
static void rockchip_pcie_silence(struct platform_device *pdev, struct rockchip_pcie *rockchip)
{
}

static void rockchip_pcie_supply_off(struct rockchip_pcie *rockchip)
{
	if (rockchip->vpcie3v3)
		regulator_disable(rockchip->vpcie3v3);
}
#else
/* devm would free the interrupt only after remove(). */
static void rockchip_pcie_silence(struct platform_device *pdev, struct rockchip_pcie *rockchip)
{
	int irq = platform_get_irq_byname(pdev, "sys");

	rockchip_pcie_writel_apb(rockchip, RCVM_HIWORD(0xffff, 0xffff), PCIE_CLIENT_INTR_MASK_MISC);
	if (irq > 0) {
		devm_free_irq(&pdev->dev, irq, rockchip);
		irq_dispose_mapping(irq);
	}
}

/* The supply is devm here. */
static void rockchip_pcie_supply_off(struct rockchip_pcie *rockchip)
{
}
#endif

/* All users are gone: the bus was removed. What must not remain is a mapping that outlives its domain. */
static void rockchip_pcie_remove_intx(struct rockchip_pcie *rockchip)
{
	int irq = of_irq_get_byname(rockchip->pci.dev->of_node, "legacy");
	irq_hw_number_t hwirq;

	rockchip_pcie_writel_apb(rockchip, RCVM_HIWORD(0xf, 0xf), PCIE_CLIENT_INTR_MASK_LEGACY);
	if (irq > 0) {
		irq_set_chained_handler_and_data(irq, NULL, NULL);
		synchronize_irq(irq);
	}

	for (hwirq = 0; hwirq < PCI_NUM_INTX; hwirq++)
		irq_dispose_mapping(irq_find_mapping(rockchip->irq_domain, hwirq));

	irq_domain_remove(rockchip->irq_domain);
	if (irq > 0)
		irq_dispose_mapping(irq);
}

static void rockchip_pcie_teardown(struct platform_device *pdev)
{
	struct rockchip_pcie *rockchip = platform_get_drvdata(pdev);
	struct dw_pcie *pci = &rockchip->pci;

	rockchip_pcie_silence(pdev, rockchip);
	pci->ops = &rockchip_pcie_removal_ops;
	rcvm_dwc_host_deinit(&pci->pp);

	rockchip_pcie_remove_intx(rockchip);
	rcvm_dwc_dispose_msi_lines(&pci->pp);

	rockchip_pcie_phy_deinit(rockchip);
	reset_control_assert(rockchip->rst);
	clk_bulk_disable_unprepare(rockchip->clk_cnt, rockchip->clks);
	rockchip_pcie_supply_off(rockchip);
}

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
static int rockchip_pcie_remove(struct platform_device *pdev)
{
	rockchip_pcie_teardown(pdev);
	return 0;
}
#else
static void rockchip_pcie_remove(struct platform_device *pdev)
{
	rockchip_pcie_teardown(pdev);
}
#endif

