/* What git cannot carry is refused with EPERM, where the file system below would have made it.
 *
 * A call that fails anyway fails as it does below, since the kernel checks names and permissions first. One that would
 * succeed changes nothing, not even the directory's times: hence it is not tried and taken back, but foreseen.
 * REFUSED has some of the letters f (fifos), d (device nodes), s (sockets), l (hard links); without it, all are meant.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BELOW(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int refused(char kind)
{
	const char *kinds = getenv("REFUSED");
	return kinds == NULL || strchr(kinds, kind) != NULL;
}

/* Whether a new name can be made: it does not exist, and its directory may be changed. */
static int possible(int directory, const char *path)
{
	struct stat found;
	char parent[PATH_MAX];
	char *slash;
	int before = errno, answer = 0;

	/* The kernel looks at the path first: it may be no address. What it has read is shorter than PATH_MAX. */
	if (fstatat(directory, path, &found, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT && path[0] != 0) {
		strcpy(parent, path);
		slash = strrchr(parent, '/');
		if (slash == NULL)
			strcpy(parent, ".");
		else if (slash == parent)
			strcpy(parent, "/");
		else
			*slash = 0;
		answer = faccessat(directory, parent, W_OK | X_OK, AT_EACCESS) == 0;
	}
	errno = before;
	return answer;
}

static int refuse(void)
{
	errno = EPERM;
	return -1;
}

int mkfifoat(int directory, const char *path, mode_t mode)
{
	return refused('f') && possible(directory, path) ? refuse() : BELOW(mkfifoat)(directory, path, mode);
}

int mkfifo(const char *path, mode_t mode)
{
	return mkfifoat(AT_FDCWD, path, mode);
}

int mknodat(int directory, const char *path, mode_t mode, dev_t device)
{
	char kind = S_ISFIFO(mode) ? 'f' : S_ISSOCK(mode) ? 's' : S_ISCHR(mode) || S_ISBLK(mode) ? 'd' : ' ';

	if (kind != ' ' && refused(kind) && possible(directory, path))
		return refuse();
	return BELOW(mknodat)(directory, path, mode, device);
}

int mknod(const char *path, mode_t mode, dev_t device)
{
	return mknodat(AT_FDCWD, path, mode, device);
}

int linkat(int from, const char *old, int directory, const char *path, int flags)
{
	struct stat found;

	if (refused('l') && fstatat(from, old, &found, flags & AT_SYMLINK_FOLLOW ? 0 : AT_SYMLINK_NOFOLLOW) == 0
	    && possible(directory, path))
		return refuse();
	return BELOW(linkat)(from, old, directory, path, flags);
}

int link(const char *old, const char *path)
{
	return linkat(AT_FDCWD, old, AT_FDCWD, path, 0);
}

int bind(int socket, const struct sockaddr *address, socklen_t length)
{
	const struct sockaddr_un *local = (const struct sockaddr_un *)address;

	if (address->sa_family == AF_UNIX && length > sizeof local->sun_family && local->sun_path[0] != 0
	    && refused('s') && possible(AT_FDCWD, local->sun_path))
		return refuse();
	return BELOW(bind)(socket, address, length);
}
