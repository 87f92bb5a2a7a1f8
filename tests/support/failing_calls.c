/* Preloaded into a process, makes system calls on one file fail as a dying disk would.
 *
 * FAILING_CALLS is `reads PART OFFSET`, `preads PART OFFSET` or `syncs PART 0`: reads that reach
 * beyond OFFSET, or only those at a position, which hashing does not do, or all syncs, of files
 * whose path contains PART, fail with EIO, for as long as the file FAILING_WHILE exists. Both are
 * looked up at each call, so that a fork can have its own. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int fails(const char *kind, int fd, off_t end) {
    char wanted[16], part[512], link[64], path[4096];
    long long offset;
    const char *setting = getenv("FAILING_CALLS"), *flag = getenv("FAILING_WHILE");
    if (!setting || !flag || access(flag, F_OK) != 0 || sscanf(setting, "%15s %511s %lld", wanted, part, &offset) != 3) return 0;
    int any_read = !strcmp(wanted, "reads") && !strcmp(kind, "preads");
    if ((strcmp(kind, wanted) && !any_read) || end <= offset) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (!strstr(path, part)) return 0;
    errno = EIO;
    return 1;
}

static size_t total(const struct iovec *parts, int count) {
    size_t sum = 0;
    for (int i = 0; i < count; i++) sum += parts[i].iov_len;
    return sum;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define PREAD(name)                                                          \
    ssize_t name(int fd, void *buffer, size_t size, off_t at) {              \
        return fails("preads", fd, at + size) ? -1 : NEXT(name)(fd, buffer, size, at); \
    }
#define PREADV(name)                                                         \
    ssize_t name(int fd, const struct iovec *parts, int count, off_t at) {   \
        return fails("preads", fd, at + total(parts, count))                  \
                   ? -1                                                      \
                   : NEXT(name)(fd, parts, count, at);                       \
    }
#define PREADV2(name)                                                        \
    ssize_t name(int fd, const struct iovec *parts, int count, off_t at, int flags) { \
        return fails("preads", fd, at + total(parts, count))                  \
                   ? -1                                                      \
                   : NEXT(name)(fd, parts, count, at, flags);                \
    }
#define SYNC(name)                                                           \
    int name(int fd) { return fails("syncs", fd, 1) ? -1 : NEXT(name)(fd); }

PREAD(pread)
PREAD(pread64)
PREADV(preadv)
PREADV(preadv64)
PREADV2(preadv2)
PREADV2(preadv64v2)
SYNC(fsync)
SYNC(fdatasync)

ssize_t read(int fd, void *buffer, size_t size) {
    off_t at = lseek(fd, 0, SEEK_CUR);
    if (at >= 0 && fails("reads", fd, at + size)) return -1;
    return NEXT(read)(fd, buffer, size);
}
