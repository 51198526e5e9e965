/* Runs one command inside a sandbox: sets its limits, adds up the CPU time and memory of all processes, reports on
 * descriptor 8, and leaves no process behind.
 *
 *   supervisor CPU_MS MEMORY_BYTES ADDRESS_BYTES PROCESSES FILE_BYTES COMMAND...
 *
 * Report: "started\n"; "missing ...\n" if there is no such command; "end STATUS CPU_US PEAK_BYTES LIMIT\n" with
 * wait()'s status, and cpu, memory or "-".
 * Without a report the supervisor was killed. Its descriptors are out of the command's reach (not dumpable).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { REPORT = 8, CHANNEL = 7, POLL_MS = 50 };

static long long used_us; /* CPU of processes that have ended */

static void limit(int what, unsigned long long soft, unsigned long long hard) {
    struct rlimit value = {soft, hard};
    setrlimit(what, &value);
}

static long long microseconds(const struct rusage *usage) {
    return (usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1000000LL + usage->ru_utime.tv_usec +
           usage->ru_stime.tv_usec;
}

/* CPU microseconds and resident bytes of a living process; 0 if it is gone. */
static int measure(const char *pid, long long *cpu, long long *bytes) {
    char path[300], text[1024];
    snprintf(path, sizeof path, "/proc/%s/stat", pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t size = read(file, text, sizeof text - 1);
    close(file);
    if (size <= 0) return 0;
    text[size] = 0;
    char *rest = strrchr(text, ')'); /* the name may hold anything */
    unsigned long long user, kernel;
    long long pages;
    if (!rest ||
        sscanf(rest + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %*d %*d %*u %*u %lld",
               &user, &kernel, &pages) != 3)
        return 0;
    *cpu += (long long)(user + kernel) * 1000000LL / sysconf(_SC_CLK_TCK);
    *bytes += pages * sysconf(_SC_PAGESIZE);
    return 1;
}

static void measure_all(pid_t self, long long *cpu, long long *bytes) {
    DIR *all = opendir("/proc");
    if (!all) return;
    struct dirent *entry;
    while ((entry = readdir(all)))
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && atoi(entry->d_name) != self &&
            atoi(entry->d_name) != 1)
            measure(entry->d_name, cpu, bytes);
    closedir(all);
}

int main(int count, char **words) {
    if (count < 7) return 125;
    /* It ends every process that it may signal, so it runs only as the first process of a namespace of its own. */
    if (getppid() != 1 || getpid() > 9) {
        fprintf(stderr, "supervisor: not in a process namespace of its own\n");
        return 125;
    }
    long long cpu_us = atoll(words[1]) * 1000, memory = atoll(words[2]), peak = 0;
    unsigned long long address = strtoull(words[3], 0, 10), processes = strtoull(words[4], 0, 10);
    unsigned long long file = strtoull(words[5], 0, 10), seconds = (cpu_us + 999999) / 1000000;
    const char *ended_by = "-";
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    fcntl(REPORT, F_SETFD, FD_CLOEXEC);
    syscall(SYS_close_range, REPORT + 1, ~0U, 0);
    sigset_t child_ended;
    sigemptyset(&child_ended);
    sigaddset(&child_ended, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child_ended, 0);
    dprintf(REPORT, "started\n");
    pid_t command = fork(), self = getpid();
    if (command < 0) return 125;
    if (!command) {
        sigprocmask(SIG_UNBLOCK, &child_ended, 0);
        prctl(PR_SET_DUMPABLE, 1);
        limit(RLIMIT_CORE, 0, 0);
        limit(RLIMIT_CPU, seconds, seconds + 1);
        if (address) limit(RLIMIT_AS, address, address);
        limit(RLIMIT_FSIZE, file, file);
        limit(RLIMIT_NOFILE, 256, 256);
        limit(RLIMIT_MEMLOCK, 0, 0);
        limit(RLIMIT_MSGQUEUE, 0, 0);
        if (processes) limit(RLIMIT_NPROC, processes, processes);
        setpgid(0, 0);
        syscall(SYS_close_range, REPORT + 1, ~0U, 0);
        execvp(words[6], words + 6);
        dprintf(REPORT, "missing %s: %s\n", words[6], strerror(errno));
        _exit(127);
    }
    close(CHANNEL);
    int status = 0, found = 0;
    struct timespec pause = {0, POLL_MS * 1000000L};
    while (!found) {
        sigtimedwait(&child_ended, 0, &pause);
        struct rusage usage;
        int one;
        pid_t pid;
        while ((pid = wait4(-1, &one, WNOHANG, &usage)) > 0) {
            used_us += microseconds(&usage);
            if (usage.ru_maxrss * 1024LL > peak) peak = usage.ru_maxrss * 1024LL;
            if (pid == command) found = 1, status = one;
        }
        long long cpu = used_us, bytes = 0;
        if (!found) {
            measure_all(self, &cpu, &bytes);
            if (bytes > peak) peak = bytes;
            if (cpu > cpu_us + 20000) ended_by = "cpu";
            if (memory && bytes > memory) ended_by = "memory";
            if (*ended_by != '-') kill(command, SIGKILL), kill(-1, SIGKILL);
        }
    }
    struct rusage usage;
    int one;
    for (;;) { /* whatever is left of it, its CPU counts, too */
        kill(-1, SIGKILL);
        if (wait4(-1, &one, 0, &usage) < 0 && errno != EINTR) break;
        used_us += microseconds(&usage);
    }
    if (*ended_by == '-' && used_us > cpu_us) ended_by = "cpu";
    dprintf(REPORT, "end %d %lld %lld %s\n", status, used_us, peak, ended_by);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
