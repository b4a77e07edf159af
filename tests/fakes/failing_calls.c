/* Calls that change files below one folder fail on purpose. For LD_PRELOAD: the JVM, and Python.
 *
 * FAILING_UNDER    a path; calls outside it are left alone
 * FAILING_CONTROL  a file of three int32, shared by all processes:
 *     seen     such calls since the test set it to 0
 *     failing  the one that fails, counted from 1; 0: none
 *     answer   0: the call is not made; 1: it is made, and its answer is lost; 2: the process group
 *              is killed before it is made; 3: after it was made
 * FAILING_LOG      a file; what is counted is noted in it, a path a line
 * FAILING_COMMITS  only what gives a commit of a Delta log its name is counted. Where it is not
 *     made, it is not made in another way either: Hadoop copies what it cannot rename
 * LATE_COMMITS_MS  how long a rename to a commit of a Delta log waits before it is made: others come
 *
 * What fails sets errno to EIO. Counted is what makes, moves and removes files and folders.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct control {
    int32_t seen, failing, answer;
};

static struct control *control;
static const char *under;
static size_t under_length;
static useconds_t late_us;
static int only_commits, noted = -1;
static char refused[4096];

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("FAILING_CONTROL");
    int (*real_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    const char *late_ms = getenv("LATE_COMMITS_MS"), *log = getenv("FAILING_LOG");
    under = getenv("FAILING_UNDER");
    if (under == NULL)
        return;
    under_length = strlen(under);
    only_commits = getenv("FAILING_COMMITS") != NULL;
    if (late_ms != NULL)
        late_us = 1000 * atoi(late_ms);
    if (log != NULL)
        noted = real_open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (path == NULL)
        return;
    int fd = real_open(path, O_RDWR);
    if (fd < 0)
        return;
    void *shared = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (shared != MAP_FAILED)
        control = shared;
}

static int is_below(const char *path)
{
    return under != NULL && path != NULL && strncmp(path, under, under_length) == 0;
}

static int is_commit(const char *path)
{
    const char *name = is_below(path) ? strstr(path, "/_delta_log/") : NULL;
    return name != NULL && strlen(name) > 5 && strcmp(name + strlen(name) - 5, ".json") == 0;
}

static void note(const char *call, const char *path)
{
    char line[4200];
    int length = snprintf(line, sizeof line, "%s %s\n", call, path);
    if (noted >= 0 && length > 0 && length < (int)sizeof line && write(noted, line, length) < 0)
        noted = -1;
}

/* 0: nothing happens to this call; 1: it fails; 2: it is made, and fails; 4: it is made, and the last. */
static int fate_of_counted(const char *call, const char *path)
{
    if (control == NULL)
        return 0;
    note(call, path);
    int number = __sync_add_and_fetch(&control->seen, 1);
    if (number != control->failing)
        return 0;
    if (control->answer == 2)
        kill(0, SIGKILL);
    return 1 + control->answer;
}

/* Of a call that makes or removes something. */
static int fate(const char *call, const char *path)
{
    if (only_commits)
        return control != NULL && control->failing != 0 && strcmp(path, refused) == 0;
    return fate_of_counted(call, path);
}

/* Of a call that gives something its name. */
static int fate_of_name(const char *call, const char *path)
{
    if (!only_commits)
        return fate_of_counted(call, path);
    int deed = is_commit(path) ? fate_of_counted(call, path) : 0;
    if (deed == 1 && strlen(path) < sizeof refused)
        strcpy(refused, path);
    return deed;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define FAILING(fate, path, call)                                                                  \
    int deed = is_below(path) ? fate(__func__, path) : 0;                                          \
    if (deed == 1) {                                                                               \
        errno = EIO;                                                                               \
        return -1;                                                                                 \
    }                                                                                              \
    __typeof__(call) told = (call);                                                                \
    if (deed == 4)                                                                                 \
        kill(0, SIGKILL);                                                                          \
    if (deed == 2) {                                                                               \
        errno = EIO;                                                                               \
        return -1;                                                                                 \
    }

#define OPENING(name)                                                                              \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0;                  \
        va_end(more);                                                                              \
        if (!(flags & O_CREAT))                                                                    \
            return REAL(name)(path, flags, mode);                                                  \
        FAILING(fate, path, REAL(name)(path, flags, mode))                                         \
        return told;                                                                               \
    }

OPENING(open)
OPENING(open64)

int openat(int folder, const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0;
    va_end(more);
    if (!(flags & O_CREAT))
        return REAL(openat)(folder, path, flags, mode);
    FAILING(fate, path, REAL(openat)(folder, path, flags, mode))
    return told;
}

int rename(const char *from, const char *to)
{
    if (late_us != 0 && is_commit(to))
        usleep(late_us);
    FAILING(fate_of_name, to, REAL(rename)(from, to))
    return told;
}

int link(const char *from, const char *to)
{
    FAILING(fate_of_name, to, REAL(link)(from, to))
    return told;
}

int mkdir(const char *path, mode_t mode)
{
    FAILING(fate, path, REAL(mkdir)(path, mode))
    return told;
}

int unlink(const char *path)
{
    FAILING(fate, path, REAL(unlink)(path))
    return told;
}

int rmdir(const char *path)
{
    FAILING(fate, path, REAL(rmdir)(path))
    return told;
}
