/* TCP ping-pong, one byte each way, one transaction outstanding: what a request and its answer cost on a path.
 *   rr serve PORT               serves connections, one after another, until killed
 *   rr ask ADDRESS PORT SECONDS prints the mean microseconds of a transaction and how many there were */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static int serve(int port)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(port) };
	int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
	char byte;

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&any, sizeof(any)) || listen(listener, 8))
		return fail("listen");
	puts("listening");
	fflush(stdout);
	for (;;) {
		int peer = accept(listener, NULL, NULL);

		if (peer < 0)
			return fail("accept");
		setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		while (read(peer, &byte, 1) == 1 && write(peer, &byte, 1) == 1)
			;
		close(peer);
	}
}

static int ask(const char *address, int port, double duration)
{
	struct sockaddr_in server = { .sin_family = AF_INET, .sin_port = htons(port) };
	int one = 1, link = socket(AF_INET, SOCK_STREAM, 0);
	double warm, begin, end;
	long count = 0;
	char byte = 0;

	inet_pton(AF_INET, address, &server.sin_addr);
	if (connect(link, (struct sockaddr *)&server, sizeof(server)))
		return fail("connect");
	setsockopt(link, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	warm = seconds() + duration / 10;
	begin = 0;
	for (;;) {
		if (write(link, &byte, 1) != 1 || read(link, &byte, 1) != 1)
			return fail("transaction");
		end = seconds();
		if (!begin) {
			if (end >= warm)
				begin = end;
			continue;
		}
		count++;
		if (end >= begin + duration)
			break;
	}
	printf("%.4f %ld\n", (end - begin) / count * 1e6, count);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(atoi(argv[2]));
	if (argc == 5 && !strcmp(argv[1], "ask"))
		return ask(argv[2], atoi(argv[3]), atof(argv[4]));
	fprintf(stderr, "usage: rr serve PORT | rr ask ADDRESS PORT SECONDS\n");
	return 2;
}
