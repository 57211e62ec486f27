// SPDX-License-Identifier: GPL-2.0
/*
 * A driver of the endpoint-test function (104c:b500) whose remove has one defect, by parameter. Without one it is correct.
 *
 * probe requests interrupts of one kind and has the function raise each of them; it fails if one does not arrive. So a
 * device that is bound has working handlers. The defects live in remove; what a defect leaves in the kernel's hands
 * (handlers, a timer, the BAR's mapping) is never freed, so that the effect is the same each time.
 *
 * Registers: include/uapi/linux/pcitest.h and drivers/misc/pci_endpoint_test.c (6.12).
 */
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/device.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/irq.h>
#include <linux/irqdomain.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/timer.h>

#define NAME "rcvm_defect"
#define MAX_VECTORS 32
#define TIMER_MS 10
#define ARRIVAL_MS 1000

/* Before 6.8 INTx has its old name. */
#ifndef PCI_IRQ_INTX
#define PCI_IRQ_INTX PCI_IRQ_LEGACY
#endif

#define REG_COMMAND 0x04
#define REG_STATUS 0x08
#define STATUS_IRQ_RAISED BIT(6)
#define REG_IRQ_TYPE 0x24
#define REG_IRQ_NUMBER 0x28

/* The function's numbers of the kinds; BIT(kind) is the command that raises one. */
enum kind { INTX, MSI, MSIX };

static const char * const kinds[] = { [INTX] = "intx", [MSI] = "msi", [MSIX] = "msix" };

enum defect {
	NONE,
	MSI_NOT_FREED,
	MSIX_NOT_FREED,
	IRQ_NOT_FREED,
	INTX_NOT_FREED,
	FREE_AFTER_DISABLE,
	DEVM_ORDER,
	AFFINITY_HINT_LEFT,
	CLASS_DEVICE_LEFT,
	TIMER_LEFT,
	MAPPING_LEFT,
	CHAINED_HANDLER_LEFT,
};

static const char * const defects[] = {
	[NONE] = "none",
	[MSI_NOT_FREED] = "msi-not-freed",
	[MSIX_NOT_FREED] = "msix-not-freed",
	[IRQ_NOT_FREED] = "irq-not-freed",
	[INTX_NOT_FREED] = "intx-not-freed",
	[FREE_AFTER_DISABLE] = "free-after-disable",
	[DEVM_ORDER] = "devm-order",
	[AFFINITY_HINT_LEFT] = "affinity-hint-left",
	[CLASS_DEVICE_LEFT] = "class-device-left",
	[TIMER_LEFT] = "timer-left",
	[MAPPING_LEFT] = "mapping-left",
	[CHAINED_HANDLER_LEFT] = "chained-handler-left",
};

static char *irq = "msi";
module_param(irq, charp, 0444);
MODULE_PARM_DESC(irq, "kind of interrupt: msi, msix or intx");

static unsigned int vectors = 4;
module_param(vectors, uint, 0444);
MODULE_PARM_DESC(vectors, "vectors to request, at most 32; INTx has one");

static char *defect = "none";
module_param(defect, charp, 0444);
MODULE_PARM_DESC(defect, "what remove does wrong");

static enum kind kind;
static enum defect wrong;
/* Names of class devices and domains are never used twice: a second one would be refused for its name alone. */
static atomic_t serial = ATOMIC_INIT(0);

static struct class defect_class = { .name = NAME };

struct card {
	struct pci_dev *pdev;
	void __iomem *bar;
	struct completion arrived;
	unsigned int count;
	int virqs[MAX_VECTORS];
	int last;
	struct device *child;
	struct timer_list timer;
	struct fwnode_handle *fwnode;
	struct irq_domain *domain;
	unsigned int inner;
};

static irqreturn_t on_irq(int virq, void *data)
{
	struct card *card = data;

	if (!(readl(card->bar + REG_STATUS) & STATUS_IRQ_RAISED))
		return IRQ_NONE;
	writel(0, card->bar + REG_STATUS);
	card->last = virq;
	complete(&card->arrived);
	return IRQ_HANDLED;
}

static int raise_one(struct card *card, unsigned int i)
{
	reinit_completion(&card->arrived);
	writel(kind, card->bar + REG_IRQ_TYPE);
	writel(kind == INTX ? 0 : i + 1, card->bar + REG_IRQ_NUMBER);
	writel(BIT(kind), card->bar + REG_COMMAND);
	if (!wait_for_completion_timeout(&card->arrived, msecs_to_jiffies(ARRIVAL_MS)))
		return -ETIMEDOUT;
	return card->last == card->virqs[i] ? 0 : -EIO;
}

static void free_handlers(struct card *card)
{
	while (card->count) {
		card->count--;
		if (wrong == DEVM_ORDER)
			devm_free_irq(&card->pdev->dev, card->virqs[card->count], card);
		else
			free_irq(card->virqs[card->count], card);
	}
}

static int request_handlers(struct card *card)
{
	static const unsigned int flags[] = { [INTX] = PCI_IRQ_INTX, [MSI] = PCI_IRQ_MSI, [MSIX] = PCI_IRQ_MSIX };
	unsigned long how = kind == INTX ? IRQF_SHARED : 0;
	int got, virq, err;

	got = pci_alloc_irq_vectors(card->pdev, 1, kind == INTX ? 1 : vectors, flags[kind]);
	if (got < 0)
		return got;
	while (card->count < got) {
		virq = pci_irq_vector(card->pdev, card->count);
		if (wrong == DEVM_ORDER)
			err = devm_request_irq(&card->pdev->dev, virq, on_irq, how, NAME, card);
		else
			err = request_irq(virq, on_irq, how, NAME, card);
		if (err)
			goto fail;
		card->virqs[card->count++] = virq;
	}
	return 0;
fail:
	free_handlers(card);
	pci_free_irq_vectors(card->pdev);
	return err;
}

static void on_timer(struct timer_list *timer)
{
	struct card *card = container_of(timer, struct card, timer);

	readl(card->bar + REG_STATUS);
	mod_timer(timer, jiffies + msecs_to_jiffies(TIMER_MS));
}

static void on_inner(struct irq_desc *desc)
{
}

static int map_inner(struct irq_domain *domain, unsigned int virq, irq_hw_number_t hwirq)
{
	irq_set_chip_and_handler(virq, &dummy_irq_chip, handle_simple_irq);
	return 0;
}

static const struct irq_domain_ops inner_ops = { .map = map_inner };

static void remove_domain(struct card *card)
{
	if (card->domain)
		irq_domain_remove(card->domain);
	if (card->fwnode)
		irq_domain_free_fwnode(card->fwnode);
}

static int create_domain(struct card *card)
{
	card->fwnode = irq_domain_alloc_named_id_fwnode(NAME, atomic_inc_return(&serial));
	if (!card->fwnode)
		return -ENOMEM;
	card->domain = irq_domain_create_linear(card->fwnode, 1, &inner_ops, card);
	if (card->domain)
		card->inner = irq_create_mapping(card->domain, 0);
	if (!card->inner) {
		remove_domain(card);
		return -ENOMEM;
	}
	if (wrong == CHAINED_HANDLER_LEFT)
		irq_set_chained_handler(card->inner, on_inner);
	return 0;
}

static int set_up_extra(struct card *card)
{
	switch (wrong) {
	case AFFINITY_HINT_LEFT:
		return irq_update_affinity_hint(card->virqs[0], cpumask_of(0));
	case CLASS_DEVICE_LEFT:
		card->child = device_create(&defect_class, &card->pdev->dev, MKDEV(0, 0), card, NAME "%d",
					    atomic_inc_return(&serial));
		return PTR_ERR_OR_ZERO(card->child);
	case TIMER_LEFT:
		mod_timer(&card->timer, jiffies + msecs_to_jiffies(TIMER_MS));
		return 0;
	case MAPPING_LEFT:
	case CHAINED_HANDLER_LEFT:
		return create_domain(card);
	default:
		return 0;
	}
}

static int defect_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct card *card = kzalloc(sizeof(*card), GFP_KERNEL);
	unsigned int i;
	int err;

	if (!card)
		return -ENOMEM;
	card->pdev = pdev;
	init_completion(&card->arrived);
	timer_setup(&card->timer, on_timer, 0);
	/* Not the managed call: with it the PCI core frees forgotten vectors (drivers/pci/msi, pcim_setup_msi_release). */
	err = pci_enable_device(pdev);
	if (err)
		goto free;
	err = pci_request_region(pdev, 0, NAME);
	if (err)
		goto disable;
	err = -ENOMEM;
	card->bar = pci_iomap(pdev, 0, 0);
	if (!card->bar)
		goto release;
	pci_set_master(pdev);
	pci_set_drvdata(pdev, card);
	err = request_handlers(card);
	if (err)
		goto unmap;
	for (i = 0; i < card->count; i++) {
		err = raise_one(card, i);
		if (err) {
			pci_err(pdev, "interrupt %u did not arrive: %d\n", i, err);
			goto handlers;
		}
	}
	err = set_up_extra(card);
	if (err)
		goto handlers;
	return 0;

handlers:
	free_handlers(card);
	pci_free_irq_vectors(pdev);
unmap:
	pci_clear_master(pdev);
	pci_iounmap(pdev, card->bar);
release:
	pci_release_region(pdev, 0);
disable:
	pci_disable_device(pdev);
free:
	kfree(card);
	return err;
}

static void defect_remove(struct pci_dev *pdev)
{
	struct card *card = pci_get_drvdata(pdev);

	switch (wrong) {
	case MSI_NOT_FREED:
	case MSIX_NOT_FREED:
		free_handlers(card);
		break;
	case INTX_NOT_FREED:
	case IRQ_NOT_FREED:
	case DEVM_ORDER:
		pci_free_irq_vectors(pdev);
		break;
	case FREE_AFTER_DISABLE:
		pci_free_irq_vectors(pdev);
		free_handlers(card);
		break;
	default:
		free_handlers(card);
		pci_free_irq_vectors(pdev);
		break;
	}
	pci_clear_master(pdev);
	if (wrong == NONE)
		pci_iounmap(pdev, card->bar);
	pci_release_region(pdev, 0);
	pci_disable_device(pdev);
	if (wrong == NONE)
		kfree(card);
}

static const struct pci_device_id ids[] = { { PCI_DEVICE(0x104c, 0xb500) }, { } };
MODULE_DEVICE_TABLE(pci, ids);

static struct pci_driver defect_driver = {
	.name = NAME,
	.id_table = ids,
	.probe = defect_probe,
	.remove = defect_remove,
};

static int __init defect_init(void)
{
	int k = match_string(kinds, ARRAY_SIZE(kinds), irq);
	int d = match_string(defects, ARRAY_SIZE(defects), defect);
	int err;

	if (k < 0 || d < 0 || !vectors || vectors > MAX_VECTORS)
		return -EINVAL;
	kind = k;
	wrong = d;
	err = class_register(&defect_class);
	if (err)
		return err;
	err = pci_register_driver(&defect_driver);
	if (err)
		class_unregister(&defect_class);
	return err;
}

static void __exit defect_exit(void)
{
	pci_unregister_driver(&defect_driver);
	class_unregister(&defect_class);
}

module_init(defect_init);
module_exit(defect_exit);
MODULE_DESCRIPTION("An endpoint driver with one defect of your choice");
MODULE_LICENSE("GPL");
