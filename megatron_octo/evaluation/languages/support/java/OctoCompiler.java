import java.io.*;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.*;
import javax.tools.*;

/**
 * Compiles one program after another in one warm machine. Input: length and text of Main.java. Output: 1 and the classes
 * (count, then name, length and bytes of each), or 0 and the compiler's messages; then the CPU time so far in ticks.
 */
public class OctoCompiler {
    static class Source extends SimpleJavaFileObject {
        private final String text;

        Source(String text) {
            super(URI.create("string:///Main.java"), Kind.SOURCE);
            this.text = text;
        }

        @Override
        public CharSequence getCharContent(boolean ignoreEncodingErrors) {
            return text;
        }
    }

    static class Output extends SimpleJavaFileObject {
        final ByteArrayOutputStream bytes = new ByteArrayOutputStream();

        Output(String name) {
            super(URI.create("mem:///" + name.hashCode() + ".class"), Kind.CLASS);
        }

        @Override
        public OutputStream openOutputStream() {
            return bytes;
        }
    }

    static class Classes extends ForwardingJavaFileManager<JavaFileManager> {
        final Map<String, Output> found = new TreeMap<>();

        Classes(JavaFileManager files) {
            super(files);
        }

        @Override
        public JavaFileObject getJavaFileForOutput(
                Location location, String name, JavaFileObject.Kind kind, FileObject sibling) {
            Output output = new Output(name);
            found.put(name, output);
            return output;
        }
    }

    static long ticks() throws IOException {
        String[] words = Files.readString(Path.of("/proc/self/stat")).replaceAll("^.*\\) ", "").split(" ");
        return Long.parseLong(words[11]) + Long.parseLong(words[12]);
    }

    static void text(DataOutputStream output, String text) throws IOException {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        output.writeInt(bytes.length);
        output.write(bytes);
    }

    public static void main(String[] words) throws IOException {
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        DataInputStream input = new DataInputStream(new BufferedInputStream(System.in));
        DataOutputStream output = new DataOutputStream(new BufferedOutputStream(System.out));
        StandardJavaFileManager files = compiler.getStandardFileManager(null, null, StandardCharsets.UTF_8);
        List<String> options = List.of("-proc:none", "-g:none", "-nowarn", "-implicit:none", "-cp", "/nothing");
        while (true) {
            byte[] source;
            try {
                source = input.readNBytes(input.readInt());
            } catch (EOFException end) {
                return;
            }
            StringWriter messages = new StringWriter();
            Classes classes = new Classes(files);
            boolean good;
            try {
                List<Source> sources = List.of(new Source(new String(source, StandardCharsets.UTF_8)));
                good = compiler.getTask(messages, classes, null, options, null, sources).call();
            } catch (StackOverflowError | RuntimeException error) {
                good = false;
                messages.write("the compiler failed: " + error);
            }
            output.writeInt(good ? 1 : 0);
            if (good) {
                output.writeInt(classes.found.size());
                for (Map.Entry<String, Output> entry : classes.found.entrySet()) {
                    text(output, entry.getKey());
                    byte[] bytes = entry.getValue().bytes.toByteArray();
                    output.writeInt(bytes.length);
                    output.write(bytes);
                }
            } else {
                String all = messages.toString();
                text(output, all.substring(0, Math.min(all.length(), 4000)));
            }
            output.writeLong(ticks());
            output.flush();
        }
    }
}
