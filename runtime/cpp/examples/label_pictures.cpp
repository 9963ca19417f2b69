// Labels pictures with the words you name, and writes each as a colour picture beside it:
//   label_pictures street.dedos "road,car|automobile,sky" one.jpg two.png
#include <dedos.hpp>
#include <iostream>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

int main(int count, char** words) {
  if (count < 4) {
    std::cerr << "label_pictures: give a bundle, a class list and pictures\n";
    return 2;
  }
  try {
    dedos::Segmenter segmenter(words[1], words[2]);
    dedos::Result result;
    for (int i = 3; i < count; ++i) {
      const cv::Mat picture = cv::imread(words[i]);
      if (picture.empty()) throw std::runtime_error(std::string(words[i]) + " is no picture");
      segmenter.segment(dedos::Frame::bgr(picture.data, picture.rows, picture.cols, picture.step),
                        result);
      const dedos_view view = result.view();
      if (view.label_map_8 == nullptr) throw std::runtime_error("name at most 254 classes");
      std::cout << words[i];
      for (int id = 0; id < view.class_count; ++id) {
        std::cout << ' ' << view.names[id] << '=' << view.counts[id];
      }
      std::cout << '\n';
      const cv::Mat labels(view.height, view.width, CV_8U, const_cast<uint8_t*>(view.label_map_8));
      cv::Mat grey, colours;
      labels.convertTo(grey, CV_8U, 255.0 / (view.class_count + 1), 20);
      cv::applyColorMap(grey, colours, cv::COLORMAP_JET);
      colours.setTo(cv::Scalar(), labels == view.none_id);
      cv::imwrite(std::string(words[i]) + ".labels.png", colours);
    }
  } catch (const std::exception& error) {
    std::cerr << "label_pictures: " << error.what() << '\n';
    return 2;
  }
}
