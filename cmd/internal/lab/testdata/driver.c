// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//
// A kernel module that stands in for one of NVIDIA's: it registers device numbers, for which
// opening succeeds and everything else fails, and creates files below /proc. At load time, it reads
// what to do from LIST/<its name>, which has lines of these forms:
//
//	c MAJOR MINOR COUNT NAME   register device numbers
//	u MAJOR MINOR COUNT NAME   unregister them, as when a GPU is unplugged
//	d PATH                     make a directory below /proc
//	f MODE SIZE PATH           make a file; its content and a newline follow
//	r PATH                     remove a directory and everything in it
//
// The kernel for User Mode Linux comes without headers. The code therefore makes only two
// assumptions about the layout of the kernel's structures: the first member of struct
// file_operations is the owner, and struct module is as described by MODULE_NAME, MODULE_INIT,
// MODULE_EXIT, MODULE_SIZE and VERMAGIC, which are read from one of that kernel's own modules.

struct proc_dir_entry;
struct seq_file;

int __register_chrdev(unsigned major, unsigned minor, unsigned count, const char *name, const void *operations);
void __unregister_chrdev(unsigned major, unsigned minor, unsigned count, const char *name);
struct proc_dir_entry *proc_mkdir(const char *path, struct proc_dir_entry *parent);
struct proc_dir_entry *proc_create_single_data(const char *path, unsigned short mode, struct proc_dir_entry *parent,
					       int (*show)(struct seq_file *, void *), void *data);
int remove_proc_subtree(const char *path, struct proc_dir_entry *parent);
int seq_write(struct seq_file *seq, const void *data, unsigned long size);
long kernel_read_file_from_path(const char *path, long long offset, void **buffer, unsigned long size,
				unsigned long *file_size, int id);
void vfree(const void *buffer);
char *strchr(const char *text, int c);
int sscanf(const char *text, const char *format, ...);

int init_module(void);
void cleanup_module(void);

__attribute__((section(".gnu.linkonce.this_module"), aligned(64))) struct {
	char before[MODULE_NAME], name[MODULE_INIT - MODULE_NAME];
	int (*init)(void);
	char between[MODULE_EXIT - MODULE_INIT - sizeof(void *)];
	void (*exit)(void);
	char after[MODULE_SIZE - MODULE_EXIT - sizeof(void *)];
} __this_module = {.name = NAME, .init = init_module, .exit = cleanup_module};

__attribute__((section(".modinfo"), used)) static const char modinfo[] =
	"license=GPL\0name=" NAME "\0vermagic=" VERMAGIC;

// The kernel reads more members, which are all zero: an open without a function of its own
// succeeds.
static const struct {
	void *owner;
	char others[1024];
} operations = {.owner = &__this_module};

static struct entry {
	char kind, name[200];
	unsigned major, minor, numbers, mode;
	unsigned long size;
	const char *data;
} entries[512];
static unsigned count;
static void *list;

static int show(struct seq_file *seq, __attribute__((unused)) void *position)
{
	// Among the pointers in struct seq_file, only this one points into entries.
	for (void **member = (void **)seq;; member++)
		if (*member >= (void *)entries && *member < (void *)(entries + count))
			return seq_write(seq, ((struct entry *)*member)->data, ((struct entry *)*member)->size);
}

static int make(struct entry *e)
{
	switch (e->kind) {
	case 'c':
		return __register_chrdev(e->major, e->minor, e->numbers, e->name, &operations);
	case 'u':
		__unregister_chrdev(e->major, e->minor, e->numbers, e->name);
		return 0;
	case 'd':
		return proc_mkdir(e->name, 0) ? 0 : -12;
	case 'f':
		return proc_create_single_data(e->name, e->mode, 0, show, e) ? 0 : -12;
	default:
		return remove_proc_subtree(e->name, 0);
	}
}

int init_module(void)
{
	unsigned long size;
	long read = kernel_read_file_from_path(LIST "/" NAME, 0, &list, 1 << 24, &size, 0);
	int failed = 0;

	if (read < 0)
		return read;
	for (char *p = list, *end = p + read; p < end && !failed;) {
		struct entry *e = &entries[count];
		int n = 0;

		e->kind = *p;
		if (e->kind == 'c' || e->kind == 'u')
			sscanf(p + 1, "%u %u %u %199s%n", &e->major, &e->minor, &e->numbers, e->name, &n);
		else if (e->kind == 'f')
			sscanf(p + 1, "%o %lu %199s%n", &e->mode, &e->size, e->name, &n);
		else
			sscanf(p + 1, "%199s%n", e->name, &n);
		if (!n || ++count == sizeof(entries) / sizeof(*entries)) {
			failed = -22;
			break;
		}
		p += 1 + n + 1;
		if (e->kind == 'f') {
			e->data = p;
			p += e->size + 1;
		}
		failed = make(e);
	}
	if (failed)
		cleanup_module();
	return failed;
}

void cleanup_module(void)
{
	while (count--) {
		struct entry *e = &entries[count];

		if (e->kind == 'c')
			__unregister_chrdev(e->major, e->minor, e->numbers, e->name);
		// Removing driver/nvidia removes everything in it.
		else if (e->kind == 'd' && !strchr(strchr(e->name, '/') + 1, '/'))
			remove_proc_subtree(e->name, 0);
	}
	vfree(list);
}
