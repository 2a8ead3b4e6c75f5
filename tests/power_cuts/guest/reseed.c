/* Puts random bytes into the kernel and has it use them: memory that is resumed has the same random numbers each time. */
#include <fcntl.h>
#include <linux/random.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

int main(int count, char **words) {
    struct {
        struct rand_pool_info head;
        char bytes[256];
    } pool;
    int random = open("/dev/random", O_RDWR);
    if (count != 2 || strlen(words[1]) > sizeof pool.bytes) return 1;
    pool.head.entropy_count = 256;
    pool.head.buf_size = strlen(words[1]);
    memcpy(pool.head.buf, words[1], strlen(words[1]));
    return ioctl(random, RNDADDENTROPY, &pool) || ioctl(random, RNDRESEEDCRNG);
}
