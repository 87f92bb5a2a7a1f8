/* Preloaded into a process and its children, answers every look-up of a name and every connection
 * to another machine with a refusal, and notes it in the file that REFUSED_NETWORK names: one line
 * each, `PID PROGRAM CALL WHAT`. Loopback addresses, `localhost` and addresses that are numbers
 * pass. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <resolv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void note(const char *call, const char *what) {
    const char *path = getenv("REFUSED_NETWORK");
    if (!path) return;
    char line[1024];
    int size = snprintf(line, sizeof line, "%d %s %s %.900s\n", getpid(), program_invocation_short_name, call, what);
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return;
    if (write(fd, line, size) < 0) abort();
    close(fd);
}

static int is_here(const char *name) {
    unsigned char address[16];
    return !name || !*name || !strcasecmp(name, "localhost") || inet_pton(AF_INET, name, address) == 1 ||
           inet_pton(AF_INET6, name, address) == 1;
}

/* Whether an address is of this machine, or of no network at all; else its text. */
static int is_loopback(const struct sockaddr *address, char *text, size_t size) {
    if (!address) return 1;
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *four = (const void *)address;
        in_addr_t host = ntohl(four->sin_addr.s_addr);
        char number[INET_ADDRSTRLEN];
        snprintf(text, size, "%s:%d", inet_ntop(AF_INET, &four->sin_addr, number, sizeof number), ntohs(four->sin_port));
        return host >> 24 == 127 || host == INADDR_ANY;
    }
    if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const void *)address;
        char number[INET6_ADDRSTRLEN];
        snprintf(text, size, "[%s]:%d", inet_ntop(AF_INET6, &six->sin6_addr, number, sizeof number), ntohs(six->sin6_port));
        return IN6_IS_ADDR_LOOPBACK(&six->sin6_addr) || IN6_IS_ADDR_UNSPECIFIED(&six->sin6_addr) ||
               (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr) && six->sin6_addr.s6_addr[12] == 127);
    }
    return 1;
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    if (is_here(name)) return NEXT(getaddrinfo)(name, service, hints, found);
    note("getaddrinfo", name);
    return EAI_NONAME;
}

int getaddrinfo_a(int mode, struct gaicb *list[], int count, struct sigevent *event) {
    for (int i = 0; i < count; i++)
        if (list[i] && !is_here(list[i]->ar_name)) {
            note("getaddrinfo_a", list[i]->ar_name);
            return EAI_AGAIN;
        }
    return NEXT(getaddrinfo_a)(mode, list, count, event);
}

int getnameinfo(const struct sockaddr *address, socklen_t length, char *host, socklen_t host_size, char *service,
                socklen_t service_size, int flags) {
    char text[128];
    if (host && host_size && !(flags & NI_NUMERICHOST) && !is_loopback(address, text, sizeof text)) {
        note("getnameinfo", text);
        return EAI_NONAME;
    }
    return NEXT(getnameinfo)(address, length, host, host_size, service, service_size, flags);
}

struct hostent *gethostbyname(const char *name) {
    if (is_here(name)) return NEXT(gethostbyname)(name);
    note("gethostbyname", name);
    h_errno = HOST_NOT_FOUND;
    return NULL;
}

struct hostent *gethostbyname2(const char *name, int family) {
    if (is_here(name)) return NEXT(gethostbyname2)(name, family);
    note("gethostbyname2", name);
    h_errno = HOST_NOT_FOUND;
    return NULL;
}

int gethostbyname_r(const char *name, struct hostent *entry, char *buffer, size_t size, struct hostent **found, int *why) {
    if (is_here(name)) return NEXT(gethostbyname_r)(name, entry, buffer, size, found, why);
    note("gethostbyname_r", name);
    *found = NULL;
    *why = HOST_NOT_FOUND;
    return 0;
}

int gethostbyname2_r(const char *name, int family, struct hostent *entry, char *buffer, size_t size,
                     struct hostent **found, int *why) {
    if (is_here(name)) return NEXT(gethostbyname2_r)(name, family, entry, buffer, size, found, why);
    note("gethostbyname2_r", name);
    *found = NULL;
    *why = HOST_NOT_FOUND;
    return 0;
}

struct hostent *gethostbyaddr(const void *address, socklen_t length, int family) {
    (void)address, (void)length, (void)family;
    note("gethostbyaddr", "an address");
    h_errno = HOST_NOT_FOUND;
    return NULL;
}

int gethostbyaddr_r(const void *address, socklen_t length, int family, struct hostent *entry, char *buffer,
                    size_t size, struct hostent **found, int *why) {
    (void)address, (void)length, (void)family, (void)entry, (void)buffer, (void)size;
    note("gethostbyaddr_r", "an address");
    *found = NULL;
    *why = HOST_NOT_FOUND;
    return 0;
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    char text[128];
    if (is_loopback(address, text, sizeof text)) return NEXT(connect)(fd, address, length);
    note("connect", text);
    errno = ENETUNREACH;
    return -1;
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *address, socklen_t length) {
    char text[128];
    if (is_loopback(address, text, sizeof text)) return NEXT(sendto)(fd, data, size, flags, address, length);
    note("sendto", text);
    errno = ENETUNREACH;
    return -1;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    char text[128];
    if (is_loopback(message->msg_name, text, sizeof text)) return NEXT(sendmsg)(fd, message, flags);
    note("sendmsg", text);
    errno = ENETUNREACH;
    return -1;
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags) {
    char text[128];
    for (unsigned int i = 0; i < count; i++)
        if (!is_loopback(messages[i].msg_hdr.msg_name, text, sizeof text)) {
            note("sendmmsg", text);
            errno = ENETUNREACH;
            return -1;
        }
    return NEXT(sendmmsg)(fd, messages, count, flags);
}
