/* SPDX-License-Identifier: GPL-2.0 */
/*
 * rcvm: teardown of pcie-qcom, inserted into pcie-qcom.c by the recipe "pcie-qcom-modular".
 *
 * The driver upstream cannot be removed. This is the removal that a removable driver would need; upstream has none of
 * the steps marked [+]. The order is the point:
 *
 *   1. silence what could run on a half-dismantled controller (global interrupt, debugfs)        [+]
 *   2. stop and remove the bus under the rescan lock: endpoint drivers free their vectors        [+ the lock, before 7.0]
 *   3. stop the link and the endpoint, then disarm iMSI-RX, iATU and root port - with clocks on  [+]
 *   4. remove chained handlers and MSI domains (dw_pcie_host_deinit)
 *   5. power off PHY, assert the core reset, stop clocks and supplies                            [+ the reset]
 *   6. give back what nobody else gives back: INTx and msiN mappings, PHY init, votes, runtime PM [+]
 */

/* What the series call by different names. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
#define rcvm_2_7_0_reset(pcie)	((pcie)->res.v2_7_0.pci_reset)
#else
#define rcvm_2_7_0_reset(pcie)	((pcie)->res.v2_7_0.rst)
#endif
#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 0, 0)
#define rcvm_perst_assert(pcie)	qcom_ep_reset_assert(pcie)
#define rcvm_elbi(pcie)		((pcie)->elbi)
#else
#define rcvm_perst_assert(pcie)	qcom_pcie_perst_assert(pcie)
#define rcvm_elbi(pcie)		((pcie)->pci->elbi_base)
#endif

/*
 * dw_pcie_host_deinit() calls this between the removal of the root bus and the removal of the MSI domains: the last
 * moment at which the bus is gone, but clocks run and the chained handlers are still there to take what is on its way.
 */
static void qcom_pcie_stop_link(struct dw_pcie *pci)
{
	struct qcom_pcie *pcie = to_qcom_pcie(pci);
	u32 val;

	/* No new training. The oldest generations have the bit in ELBI. */
	if (pcie->cfg->ops->ltssm_enable == qcom_pcie_2_3_2_ltssm_enable) {
		val = readl(pcie->parf + PARF_LTSSM);
		val &= ~BIT(8);
		writel(val, pcie->parf + PARF_LTSSM);
	} else if (rcvm_elbi(pcie)) {
		val = readl(rcvm_elbi(pcie) + ELBI_SYS_CTRL);
		val &= ~ELBI_SYS_CTRL_LT_ENABLE;
		writel(val, rcvm_elbi(pcie) + ELBI_SYS_CTRL);
	}

	/* Stop DMA and MSIs at their source before their target is dismantled. */
	rcvm_perst_assert(pcie);

	rcvm_dwc_disarm(pci);
}

/*
 * Between phy_power_off() and the deinit op, which stops clocks and supplies: PHY down, core in reset. Generations that
 * assert their resets themselves, or have none, are left alone.
 */
static void qcom_pcie_power_down(struct qcom_pcie *pcie)
{
	void (*deinit)(struct qcom_pcie *pcie) = pcie->cfg->ops->deinit;
	u32 val;

	if (deinit != qcom_pcie_deinit_1_0_0 && deinit != qcom_pcie_deinit_2_1_0) {
		val = readl(pcie->parf + PARF_PHY_CTRL);
		val |= BIT(0);
		writel(val, pcie->parf + PARF_PHY_CTRL);
	}

	if (deinit == qcom_pcie_deinit_2_7_0) {
		reset_control_assert(rcvm_2_7_0_reset(pcie));
	} else if (deinit == qcom_pcie_deinit_2_9_0) {
		reset_control_assert(pcie->res.v2_9_0.rst);
	} else if (deinit == qcom_pcie_deinit_2_3_3) {
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
		int i;

		for (i = 0; i < ARRAY_SIZE(pcie->res.v2_3_3.rst); i++)
			reset_control_assert(pcie->res.v2_3_3.rst[i]);
#else
		reset_control_bulk_assert(ARRAY_SIZE(pcie->res.v2_3_3.rst), pcie->res.v2_3_3.rst);
#endif
	}
}

/* The global interrupt, debugfs and votes: none of them exists in 6.1. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
static void qcom_pcie_silence(struct platform_device *pdev, struct qcom_pcie *pcie)
{
}

static void qcom_pcie_drop_votes(struct device *dev, struct qcom_pcie *pcie)
{
}
#else
/*
 * The global interrupt is devm: it would be freed only after remove(), when its thread walks a bus that is gone and
 * reads registers without a clock. Its handler takes the rescan lock, so it must be freed outside of it.
 * PARF_INT_ALL_MASK goes back to its reset value: bits 30:23 let the endpoint drivers' MSIs through while they are removed.
 */
static void qcom_pcie_silence(struct platform_device *pdev, struct qcom_pcie *pcie)
{
	int irq = platform_get_irq_byname_optional(pdev, "global");

	if (irq > 0) {
		writel_relaxed(GENMASK(30, 23), pcie->parf + PARF_INT_ALL_MASK);
		devm_free_irq(&pdev->dev, irq, pcie);
		irq_dispose_mapping(irq);
	}

	/* Reads of link_transition_count would touch an unmapped window; a rebind would find the directory. */
	debugfs_remove_recursive(pcie->debugfs);
}

static void qcom_pcie_drop_votes(struct device *dev, struct qcom_pcie *pcie)
{
	if (pcie->use_pm_opp)
		dev_pm_opp_set_opp(dev, NULL);
}
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 0, 0)
static void qcom_pcie_exit_phys(struct qcom_pcie *pcie)
{
	phy_exit(pcie->phy);
}

static void qcom_pcie_remove_bus(struct dw_pcie_rp *pp)
{
	rcvm_dwc_host_deinit(pp);
}

static bool qcom_pcie_fw_teardown(struct platform_device *pdev)
{
	return false;
}
#else
/*
 * A bridge that firmware runs (sa8255p): its power, link and windows are firmware's, the bus and iMSI-RX are ours. Without this
 * the bus would live on, and the window would be unmapped before the MSI handlers are gone: both are devm, in that order.
 */
static bool qcom_pcie_fw_teardown(struct platform_device *pdev)
{
	const struct qcom_pcie_cfg *cfg = of_device_get_match_data(&pdev->dev);
	struct pci_host_bridge *bridge = platform_get_drvdata(pdev);
	struct device *dev = &pdev->dev;
	struct pci_config_window *ecam;
	struct dw_pcie_rp *pp;

	if (!cfg->firmware_managed)
		return false;

	ecam = bridge->sysdata;
	pp = ecam->priv;

	pci_lock_rescan_remove();
	pci_stop_root_bus(bridge->bus);
	pci_remove_root_bus(bridge->bus);
	pci_unlock_rescan_remove();

	rcvm_dwc_disarm(to_dw_pcie_from_pp(pp));
	devm_release_action(dev, qcom_pci_free_msi, pp);
	rcvm_dwc_dispose_gic_intx(dev->of_node);
	rcvm_dwc_dispose_msi_lines(pp);

	pm_runtime_put_sync(dev);
	pm_runtime_disable(dev);
	return true;
}

static void qcom_pcie_exit_phys(struct qcom_pcie *pcie)
{
	struct qcom_pcie_port *port;

	list_for_each_entry(port, &pcie->ports, list)
		phy_exit(port->phy);
}

static void qcom_pcie_remove_bus(struct dw_pcie_rp *pp)
{
	rcvm_dwc_host_deinit(pp);
	pci_pwrctrl_destroy_devices(to_dw_pcie_from_pp(pp)->dev);
}
#endif

static void qcom_pcie_teardown(struct platform_device *pdev)
{
	struct qcom_pcie *pcie = platform_get_drvdata(pdev);
	struct device *dev = &pdev->dev;
	struct dw_pcie_rp *pp;

	if (qcom_pcie_fw_teardown(pdev))
		return;

	pp = &pcie->pci->pp;
	qcom_pcie_silence(pdev, pcie);
	qcom_pcie_remove_bus(pp);

	rcvm_dwc_dispose_gic_intx(dev->of_node);
	rcvm_dwc_dispose_msi_lines(pp);

	qcom_pcie_exit_phys(pcie);
	qcom_pcie_drop_votes(dev, pcie);
	pm_runtime_put_sync(dev);
	pm_runtime_disable(dev);
}

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
static int qcom_pcie_remove(struct platform_device *pdev)
{
	qcom_pcie_teardown(pdev);
	return 0;
}
#else
static void qcom_pcie_remove(struct platform_device *pdev)
{
	qcom_pcie_teardown(pdev);
}
#endif

