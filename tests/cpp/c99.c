/* The C interface as a C99 program meets it: defaults, a failure, and the bundle's size. */
#include <dedos.h>
#include <stdio.h>
#include <string.h>

int main(int count, char** words) {
  dedos_options options;
  dedos_segmenter* segmenter = NULL;
  int32_t height = 0, width = 0;
  (void)count;
  dedos_options_init(&options, sizeof options);
  options.onnxruntime = words[2];
  if (dedos_open(words[1], "", &options, &segmenter) != DEDOS_BAD_INPUT || segmenter != NULL) return 1;
  if (strstr(dedos_last_error(), "class list is empty") == NULL) return 1;
  if (dedos_open(words[1], "road", &options, &segmenter) != DEDOS_OK) {
    fprintf(stderr, "%s\n", dedos_last_error());
    return 1;
  }
  if (dedos_network_size(segmenter, &height, &width) != DEDOS_OK) return 1;
  printf("%s %dx%d\n", dedos_version(), (int)height, (int)width);
  dedos_close(segmenter);
  return 0;
}
