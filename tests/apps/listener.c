/* A small server for tests, to be linked statically: `listener MODE [ARGUMENT]`. Listens on PORT in the
   way of its mode, and answers every request with what it has to tell. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *mode = "serve", *argument = "";
static int times, failures;

static int bound(int port, in_addr_t ip) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    address.sin_addr.s_addr = htonl(ip);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (!strcmp(mode, "workers")) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address)) {
        perror("bind");
        exit(3);
    }
    return fd;
}

static int listening(int port, in_addr_t ip) {
    int fd = bound(port, ip);
    times++;
    if (listen(fd, 128)) {
        failures++;
        perror("listen");
        exit(4);
    }
    return fd;
}

static int own_port(void) {
    const char *port = getenv("PORT");
    return port ? atoi(port) : 0;
}

static void touch(const char *path) { close(open(path, O_CREAT | O_WRONLY, 0644)); }

static void euid_of_program(char *text, size_t size) {
    char command[512];
    snprintf(command, sizeof command, "%s euid", argument);
    FILE *program = popen(command, "r");
    if (!fgets(text, size, program)) snprintf(text, size, "nothing");
    pclose(program);
}

/* Answers one request; gives the listener to go on with. */
static int answer(int fd) {
    char head[4096], told[256] = "", text[512], reply[1024];
    size_t length = 0;
    int client = accept(fd, NULL, NULL);
    if (client < 0) return fd;
    while (length < sizeof head - 1) {
        ssize_t more = read(client, head + length, sizeof head - 1 - length);
        if (more <= 0) break;
        head[length += more] = 0;
        if (strstr(head, "\r\n\r\n")) break;
    }
    head[length] = 0;
    if (!strncmp(head, "GET /again", 10)) {
        close(fd);
        fd = listening(own_port(), INADDR_LOOPBACK);
    } else if (!strncmp(head, "GET /open", 9)) {
        listening(atoi(argument), INADDR_ANY);
    } else if (!strncmp(head, "GET /euid", 9)) {
        euid_of_program(told, sizeof told);
    }
    snprintf(text, sizeof text, "%s times=%d failures=%d pid=%d %s", mode, times, failures, getpid(), told);
    snprintf(reply, sizeof reply, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
             strlen(text), text);
    if (length && write(client, reply, strlen(reply)) < 0) perror("write");
    close(client);
    return fd;
}

static void serve(int fd) {
    for (;;) fd = answer(fd);
}

static void *serve_in_thread(void *nothing) {
    serve(listening(own_port(), INADDR_LOOPBACK));
    return nothing;
}

/* Listens only when a file is there, and says before that it is about to. */
static void wait_for_word(void) {
    char path[512];
    int fd = bound(own_port(), INADDR_LOOPBACK);
    snprintf(path, sizeof path, "%s/about", argument);
    touch(path);
    snprintf(path, sizeof path, "%s/go", argument);
    while (access(path, F_OK)) usleep(200);
    times++;
    int failed = listen(fd, 128) ? errno : 0;
    snprintf(path, sizeof path, "%s/listens-%d", argument, failed);
    touch(path);
    if (failed) exit(4);
    serve(fd);
}

static void split(int each_listens) {
    int fd = each_listens ? -1 : listening(own_port(), INADDR_LOOPBACK);
    for (int child = 0; child < 4; child++)
        if (!fork()) serve(each_listens ? listening(own_port(), INADDR_LOOPBACK) : fd);
    while (wait(NULL) > 0) {}
}

/* Calls listen for ever, from many processes; some are killed in the midst of it. */
static void flood(void) {
    int fd = bound(0, INADDR_LOOPBACK);
    for (int child = 0; child < 8; child++)
        if (!fork()) {
            for (;;) {
                pid_t victim = fork();
                if (!victim)
                    for (;;) listen(fd, 1);
                usleep(2000);
                kill(victim, SIGKILL);
                waitpid(victim, NULL, 0);
            }
        }
    serve(listening(own_port(), INADDR_LOOPBACK));
}

int main(int count, char **arguments) {
    pthread_t thread;
    if (count > 1) mode = arguments[1];
    if (count > 2) argument = arguments[2];
    signal(SIGPIPE, SIG_IGN);
    if (!strcmp(mode, "euid")) return printf("euid=%d", geteuid()), 0;
    if (!strcmp(mode, "wait")) wait_for_word();
    if (!strcmp(mode, "children")) split(0);
    if (!strcmp(mode, "workers")) split(1);
    if (!strcmp(mode, "flood")) flood();
    if (!strcmp(mode, "elsewhere")) serve(listening(atoi(argument), INADDR_LOOPBACK));
    if (!strcmp(mode, "everywhere")) serve(listening(own_port(), INADDR_ANY));
    if (!strcmp(mode, "debugger")) {
        listening(atoi(argument), INADDR_LOOPBACK);
        usleep(2500000);
    }
    if (!strcmp(mode, "thread")) {
        pthread_create(&thread, NULL, serve_in_thread, NULL);
        pthread_join(thread, NULL);
    }
    serve(listening(own_port(), INADDR_LOOPBACK));
}
