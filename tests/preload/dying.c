/* Kills at the n-th call that changes a file, before it is made.
 *
 * The file that DYING names holds four 64-bit numbers: the process group that is meant, how many such calls it has made
 * so far, at which one it dies, and who: 0 the whole group, 1 its leader alone, 2 the process that makes the call.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct page {
	int64_t group, count, last, whom;
};

static struct page *page;

__attribute__((constructor)) static void prepare(void)
{
	const char *path = getenv("DYING");
	int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *found;

	if (file < 0)
		return;
	found = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
	if (found != MAP_FAILED)
		page = found;
}

static void step(void)
{
	pid_t group;

	if (page == NULL || page->group == 0 || page->group != (group = getpgrp()))
		return;
	if (__atomic_add_fetch(&page->count, 1, __ATOMIC_SEQ_CST) != page->last)
		return;
	if (page->whom == 0)
		kill(-group, SIGKILL);
	else
		kill(page->whom == 1 ? group : getpid(), SIGKILL);
}

/* Pipes and sockets are no files. */
static void step_in(int file)
{
	struct stat found;

	if (page != NULL && page->group != 0 && fstat(file, &found) == 0 && (S_ISREG(found.st_mode) || S_ISDIR(found.st_mode)))
		step();
}

#define CALL(result, name, parameters, arguments, counted) \
	result name parameters \
	{ \
		static result(*below) parameters; \
		if (below == NULL) \
			below = (result(*) parameters)dlsym(RTLD_NEXT, #name); \
		counted; \
		return below arguments; \
	}

CALL(ssize_t, write, (int f, const void *b, size_t n), (f, b, n), step_in(f))
CALL(ssize_t, writev, (int f, const struct iovec *v, int n), (f, v, n), step_in(f))
CALL(ssize_t, pwrite, (int f, const void *b, size_t n, off_t o), (f, b, n, o), step_in(f))
CALL(ssize_t, pwrite64, (int f, const void *b, size_t n, off64_t o), (f, b, n, o), step_in(f))
CALL(ssize_t, pwritev, (int f, const struct iovec *v, int n, off_t o), (f, v, n, o), step_in(f))
CALL(ssize_t, pwritev64, (int f, const struct iovec *v, int n, off64_t o), (f, v, n, o), step_in(f))
CALL(ssize_t, copy_file_range, (int f, off64_t *p, int g, off64_t *q, size_t n, unsigned m), (f, p, g, q, n, m), step_in(g))
CALL(ssize_t, sendfile, (int f, int g, off_t *o, size_t n), (f, g, o, n), step_in(f))
CALL(ssize_t, sendfile64, (int f, int g, off64_t *o, size_t n), (f, g, o, n), step_in(f))
CALL(int, ftruncate, (int f, off_t n), (f, n), step_in(f))
CALL(int, ftruncate64, (int f, off64_t n), (f, n), step_in(f))
CALL(int, posix_fallocate, (int f, off_t o, off_t n), (f, o, n), step_in(f))
CALL(int, posix_fallocate64, (int f, off64_t o, off64_t n), (f, o, n), step_in(f))
CALL(int, fsync, (int f), (f), step_in(f))
CALL(int, fdatasync, (int f), (f), step_in(f))
CALL(int, syncfs, (int f), (f), step_in(f))
CALL(int, fchmod, (int f, mode_t m), (f, m), step_in(f))
CALL(int, truncate, (const char *p, off_t n), (p, n), step())
CALL(int, truncate64, (const char *p, off64_t n), (p, n), step())
CALL(int, chmod, (const char *p, mode_t m), (p, m), step())
CALL(int, fchmodat, (int d, const char *p, mode_t m, int g), (d, p, m, g), step())
CALL(int, mkdir, (const char *p, mode_t m), (p, m), step())
CALL(int, mkdirat, (int d, const char *p, mode_t m), (d, p, m), step())
CALL(int, rmdir, (const char *p), (p), step())
CALL(int, unlink, (const char *p), (p), step())
CALL(int, unlinkat, (int d, const char *p, int g), (d, p, g), step())
CALL(int, remove, (const char *p), (p), step())
CALL(int, rename, (const char *p, const char *q), (p, q), step())
CALL(int, renameat, (int d, const char *p, int e, const char *q), (d, p, e, q), step())
CALL(int, renameat2, (int d, const char *p, int e, const char *q, unsigned g), (d, p, e, q, g), step())
CALL(int, link, (const char *p, const char *q), (p, q), step())
CALL(int, linkat, (int d, const char *p, int e, const char *q, int g), (d, p, e, q, g), step())
CALL(int, symlink, (const char *p, const char *q), (p, q), step())
CALL(int, symlinkat, (const char *p, int d, const char *q), (p, d, q), step())

#define MODE_OF(flags, last) \
	mode_t mode = 0; \
	if ((flags) & (O_CREAT | __O_TMPFILE)) { \
		va_list more; \
		va_start(more, last); \
		mode = va_arg(more, mode_t); \
		va_end(more); \
	} \
	if ((flags) & (O_CREAT | O_TRUNC)) \
		step();

#define OPEN(name) \
	int name(const char *path, int flags, ...) \
	{ \
		static int (*below)(const char *, int, ...); \
		MODE_OF(flags, flags) \
		if (below == NULL) \
			below = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name); \
		return below(path, flags, mode); \
	}

#define OPENAT(name) \
	int name(int directory, const char *path, int flags, ...) \
	{ \
		static int (*below)(int, const char *, int, ...); \
		MODE_OF(flags, flags) \
		if (below == NULL) \
			below = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #name); \
		return below(directory, path, flags, mode); \
	}

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
