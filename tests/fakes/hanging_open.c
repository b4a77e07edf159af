/* The first process that opens one file hangs for ever, as one does whose network file system is
 * gone. For LD_PRELOAD.
 *
 * HANGING_OPEN  the file; the first to make a file beside it, of the same name and ".hung", hangs
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void hang(const char *path)
{
    const char *hanging = getenv("HANGING_OPEN");
    char mark[4096];
    if (hanging == NULL || path == NULL || strcmp(path, hanging) != 0)
        return;
    snprintf(mark, sizeof mark, "%s.hung", path);
    int fd = REAL(open)(mark, O_CREAT | O_EXCL | O_WRONLY, 0600);
    if (fd < 0)
        return;
    close(fd);
    for (;;)
        pause();
}

#define MODE                                                                                       \
    va_list more;                                                                                  \
    va_start(more, flags);                                                                         \
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0;                      \
    va_end(more);

#define OPENING(name)                                                                              \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        MODE hang(path);                                                                           \
        return REAL(name)(path, flags, mode);                                                      \
    }

#define OPENING_AT(name)                                                                           \
    int name(int folder, const char *path, int flags, ...)                                         \
    {                                                                                              \
        MODE hang(path);                                                                           \
        return REAL(name)(folder, path, flags, mode);                                              \
    }

OPENING(open)
OPENING(open64)
OPENING_AT(openat)
OPENING_AT(openat64)
