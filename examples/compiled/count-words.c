/* Count the words of one file: count-words INPUT OUTPUT */
#include <ctype.h>
#include <stdio.h>

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: count-words INPUT OUTPUT\n");
    return 64;
  }
  FILE *input = fopen(argv[1], "r");
  if (input == NULL) {
    perror(argv[1]);
    return 66;
  }
  long words = 0;
  int c, is_inside = 0;
  while ((c = getc(input)) != EOF) {
    if (isspace(c)) {
      is_inside = 0;
    } else if (!is_inside) {
      is_inside = 1;
      words++;
    }
  }
  if (ferror(input)) {
    perror(argv[1]);
    return 74;
  }
  FILE *output = fopen(argv[2], "w");
  if (output == NULL || fprintf(output, "%ld\n", words) < 0 || fclose(output) != 0) {
    perror(argv[2]);
    return 74;
  }
  return 0;
}
