// SPDX-License-Identifier: GPL-2.0
#include <linux/module.h>
MODULE_DESCRIPTION("An endpoint driver with one defect of your choice");
MODULE_LICENSE("GPL");
