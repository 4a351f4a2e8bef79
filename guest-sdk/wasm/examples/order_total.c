/* A function in C: asks the database on descriptor 3, answers on its standard output.
 *
 *     zig cc --target=wasm32-wasi -Os -o functions/order_total.wasm order_total.c
 *
 * Any C compiler with wasi-libc does. What is asked and answered is in guest-sdk/PROTOCOL.md; a program that does
 * more of it will want a JSON library.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How it wants to be served: a custom section named "flux". */
__asm__(".section .custom_section.flux,\"\",@\n"
        ".ascii \"{\\\"route\\\": \\\"GET /orders/{id}/total\\\", \\\"timeout\\\": \\\"5s\\\"}\"\n");

enum { WIRE = 3 };

/* Send one frame. */
static void ask(const char *frame)
{
    size_t left = strlen(frame);
    while (left > 0) {
        ssize_t sent = write(WIRE, frame, left);
        if (sent < 0)
            exit(70);
        frame += sent;
        left -= sent;
    }
}

/* Wait for one frame: a read never returns more than one. */
static void hear(char *frame, size_t room)
{
    size_t size = 0;
    do {
        ssize_t got = read(WIRE, frame + size, room - 1 - size);
        if (got <= 0)
            exit(71);
        size += got;
    } while (frame[size - 1] != '\n' && size < room - 1);
    frame[size] = 0;
}

/* The number behind a key: in `"id": "7"` and in `"rows":[[7]]` it is 7. */
static int find_number(const char *text, const char *key, long *number)
{
    const char *at = text ? strstr(text, key) : NULL;
    if (!at)
        return 0;
    at += strlen(key);
    at += strspn(at, " :[\"");
    char *end;
    *number = strtol(at, &end, 10);
    return end != at;
}

int main(void)
{
    static char document[65536], frame[65536], question[256];
    size_t size = fread(document, 1, sizeof document - 1, stdin);
    document[size] = 0;

    long id, total;
    if (!find_number(strstr(document, "\"input\""), "\"id\"", &id)) {
        fprintf(stderr, "the document has no id\n");
        return 64;
    }

    snprintf(question, sizeof question,
             "[1,\"db.query\",[\"select sum(price)::int from items where order_id = $1\",[%ld]],"
             "{\"at\":[\"order_total.c\",%d,\"main\"]}]\n",
             id, __LINE__);
    ask(question);
    hear(frame, sizeof frame);
    if (!find_number(frame, "\"rows\"", &total)) {
        fprintf(stderr, "the database answered: %s", frame);
        return 65;
    }
    printf("{\"order\":%ld,\"total\":%ld}", id, total);
    return 0;
}
