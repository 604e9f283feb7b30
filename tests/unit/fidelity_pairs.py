# ruff: noqa: E501 (a table of sentences)
"""Rephrasings written by hand, each marked with what is wrong with it: `ok` for nothing, or the kind of the change.

Every second source (`HELD`) was first looked at when the rules were written, and helped to correct them; `FRESH` was
written after that.
"""

from __future__ import annotations

from typing import NamedTuple

Rephrasings = list[tuple[str, str]]


class Pair(NamedTuple):
    """One source with one rephrasing; `kind` is `ok`, `number`, `date`, `unit`, `name`, `negation` or `role`."""

    kind: str
    source: str
    rephrased: str


_BRIDGE = (
    "The Halvorsen Bridge, which spans the Tarn estuary, was opened to traffic on 12 March 1998 after four years of work. "
    "It is 2,340 metres long and carries about 45,000 vehicles a day. The project cost $310 million, of which the European "
    "Investment Bank paid 40 percent. Engineers led by Dr. Ingrid Solberg did not use any suspension cables."
)
_VOLCANO = (
    "Mount Keliro last erupted in 1883, killing 212 people in three villages: Ando, Piro and Sumba. Ash fell up to 30 km "
    "from the crater, and temperatures in the region dropped by 2 °C for the following year. The mountain is 3,120 m high. "
    "Scientists from the University of Jakarta have monitored it since the 1970s, but they have never recorded a major "
    "earthquake there."
)
_BAKERY = (
    "Maria Lopez founded the bakery in Seville in 1952 with her brother Antonio. For the first decade they sold only three "
    "kinds of bread: rye, wheat and spelt. After Antonio died in 1971, Maria sold half of the business to the Moreno family. "
    "Today the company has 85 employees and delivers to twelve towns, but it does not ship abroad."
)
_MATCH = (
    "Arsenal beat Chelsea 3-1 at Wembley on Saturday. Henry scored twice in the first half, and Bergkamp added a third goal "
    "in the 78th minute. Chelsea's only goal came from Zola. The attendance was 71,500. Wenger praised Vieira, who had not "
    "trained all week because of an injured ankle."
)
_DRUG = (
    "In the trial, 640 patients received 50 mg of the drug daily for 12 weeks, while 320 received a placebo. Blood pressure "
    "fell by 15 percent in the treatment group. The drug did not cause liver damage, and side effects were not uncommon but "
    "mild. Dr. James Okafor of Lagos General Hospital said the results were published in May 2016."
)
_QUEEN = (
    "Queen Adelina II ruled the island from 1604 until her death in 1639. She defeated King Rodrigo at the Battle of Corvan "
    "in 1611 and signed a treaty with the Dutch two years later. Her eldest son, Prince Marek, never became king, because "
    "parliament refused to accept him. The crown passed to her cousin Stefan."
)
_LAPTOP = (
    "The new Zephyr 14 laptop weighs 1.3 kg and has a battery that lasts 18 hours. It is sold for €1,199 in Germany and "
    "France. The screen measures 14 inches. Unlike the previous model, it doesn't have a headphone jack. Reviewers at "
    "TechRadar found that it is faster than the Orion X, although the keyboard is not comfortable."
)
_CLUB = (
    "The gardening club meets on the first Monday of every month at 7:30 pm in the town hall. Membership costs $25 a year. "
    "Visitors are welcome, but dogs are not allowed. In April, Ellen Hartley will give a talk about roses; in June the club "
    "will travel to Kew Gardens. Last year 64 members took part in the plant sale, raising $2,480."
)
_PLANET = (
    "Kepler-186f was discovered in 2014 by a team at NASA's Ames Research Center. It orbits a red dwarf about 580 light-years "
    "from Earth and completes one orbit every 130 days. Its radius is 1.17 times that of Earth. Astronomers do not know "
    "whether the planet has an atmosphere. The host star has four other planets."
)
_TOWN = (
    "Lindhof is a town of 12,400 inhabitants in southern Austria. It lies 510 metres above sea level, 35 kilometres west of "
    "Graz. The town received market rights in 1357 and was destroyed by fire in 1742. Its castle is open to the public on "
    "weekends, but the chapel is closed. The composer Franz Weidinger was born there on 3 February 1811."
)
_RIVER = (
    "The Osmer River rises in the Pell Hills and flows 187 miles south before it reaches the Gulf of Marn. Two dams were "
    "built on it in the 1930s, and a third was completed in 1968. Roughly one fifth of the valley's farmland depends on its "
    "water. In the drought of 1976 the river did not dry up, but fishing was banned for eight months."
)
_NOVEL = (
    "Thomas Wren wrote The Glass Orchard in just six weeks in the autumn of 1927. The publisher Harcourt rejected it, and it "
    "was Faber who finally published it in 1931. The first edition of 1,500 copies sold out in ten days. Critics did not "
    "like the ending, yet the novel won the Aldous Prize. Wren's sister Clara translated it into French."
)
_LAW = (
    "The Clean Harbours Act was passed by the Senate on 4 October 2007 by 61 votes to 37. It requires ships longer than 80 "
    "metres to use low-sulphur fuel within 24 nautical miles of the coast. Fines range from $5,000 to $75,000. Fishing boats "
    "are not covered by the act. Senator Ruth Calloway introduced the bill; Senator Paul Dempsey opposed it."
)
_RECIPE = (
    "Preheat the oven to 180 °C. Mix 250 g of flour with two teaspoons of baking powder, then add three eggs and 120 ml of "
    "milk. Do not overmix the batter. Bake for 35 minutes, until a skewer comes out clean. The cake keeps for five days in a "
    "tin and should never be stored in the refrigerator."
)
_FIRM = (
    "Northwind Energy reported revenue of £4.2 billion for 2019, up 12% from the previous year. Profit fell to £310 million. "
    "Chief executive Laura Benning said the company had bought Solaris from Brightfield for £95 million. The board did not "
    "approve a dividend. The firm employs 6,800 people in the United Kingdom and 1,200 in Denmark."
)
_BIRD = (
    "The spotted marsh wren lays between four and six eggs, which hatch after 15 days. Adults weigh 11 grams and are not "
    "migratory. Males are larger than females. A survey by the Audubon Society in 2003 counted 8,350 birds in Louisiana, "
    "one third fewer than in 1980. The species is not endangered."
)
_SCHOOL = (
    "St. Brendan's School was founded by Father Michael Doyle in 1894 with 17 pupils and one teacher. It moved from Cork to "
    "Limerick in 1922. Girls were not admitted until 1969. The poet Seamus Lynch taught Latin there for eleven years; among "
    "his students was Nora Keane, who later became Minister of Education."
)
_FLIGHT = (
    "Flight 417 left Denver at 6:45 am on Tuesday with 132 passengers and six crew. Forty minutes later the pilot, Captain "
    "Alan Reyes, reported smoke in the cabin and landed in Omaha. Nobody was injured. The aircraft, a Boeing 737, had been "
    "inspected two days earlier. Investigators found no evidence of a fire."
)
_SOIL = (
    "Soil in the Varen basin holds 28 percent clay, 32 percent sand and 40 percent silt. Average rainfall is 900 mm, most of "
    "which falls between June and September. Farmers grow maize, beans, squash and peppers. Since 1995 yields have risen from "
    "2.1 to 3.4 tonnes per hectare, although no chemical fertiliser is used."
)
_ARTIST = (
    "The painter Yuki Tanabe moved from Osaka to Paris in 1921, where she studied under André Lhote. Her first exhibition, "
    "held at the Galerie Percier in 1926, included nineteen landscapes. She admired Braque and disliked Dalí. Tanabe never "
    "returned to Japan. She died in Nice on 30 August 1983 at the age of 86."
)

TABLE: dict[str, Rephrasings] = {
    _BRIDGE: [
        ("ok", "Opened on March 12th, 1998, the Halvorsen Bridge crosses the Tarn estuary. It took four years to build and is "
               "2.34 km long."),
        ("ok", "Question: How many vehicles use the bridge each day?\nAnswer: Around forty-five thousand vehicles cross it "
               "daily."),
        ("ok", "The EIB covered two-fifths of the 310 million dollar cost. No suspension cables were used by Solberg's team."),
        ("ok", "- Name: Halvorsen Bridge\n- Opening: 1998-03-12\n- Length: about 1.45 miles\n- Cost: $310M"),
        ("number", "The Halvorsen Bridge, opened in March 1998, is 2,430 metres long and cost 310 million dollars."),
        ("date", "The Halvorsen Bridge was opened to traffic on 12 May 1998 after four years of construction."),
        ("name", "Engineers under Dr. Ingrid Larsen built the bridge without any suspension cables."),
        ("negation", "The engineers, led by Dr. Solberg, used suspension cables."),
        ("unit", "The bridge is 2,340 feet long and is used by some 45,000 vehicles a day."),
        ("number", "Of the total cost of $310 million, the European Investment Bank contributed 60 percent."),
    ],
    _VOLCANO: [
        ("ok", "Mount Keliro's most recent eruption, in 1883, claimed 212 lives in the villages of Ando, Piro and Sumba."),
        ("ok", "Ash travelled as far as 30 kilometers (nearly 19 miles), and the region cooled by two degrees Celsius for a year."),
        ("ok", "Since the seventies, researchers at the University of Jakarta have watched the 3.12 km peak. No major earthquake "
               "has been recorded."),
        ("ok", "What happened in the 19th century? Mount Keliro erupted, killing more than 200 people."),
        ("number", "The eruption of 1883 killed 221 people in three villages."),
        ("date", "Mount Keliro last erupted in 1893 and killed 212 people."),
        ("name", "The villages of Ando, Piro and Lombok were destroyed in the eruption of 1883."),
        ("negation", "Scientists have monitored the mountain since the 1970s and have recorded a major earthquake there."),
        ("number", "Four villages were hit: the eruption killed 212 people in four villages."),
        ("date", "Scientists from Jakarta have monitored the volcano since the 1950s."),
    ],
    _BAKERY: [
        ("ok", "Maria Lopez and her brother Antonio started the bakery in 1952 in the Spanish city of Seville."),
        ("ok", "Initially, the siblings sold 3 types of bread. When Antonio passed away in 1971, Lopez sold 50% of the firm to "
               "the Morenos."),
        ("ok", "The company now employs 85 people and serves a dozen towns; it makes no deliveries abroad."),
        ("ok", "## Key Facts\n\n1. Founded: 1952\n2. Founders: Maria Lopez, Antonio\n3. Employees: eighty-five"),
        ("number", "Today the bakery has 58 employees and supplies twelve towns."),
        ("name", "The bakery was founded in Seville by Carmen Lopez and her brother Antonio."),
        ("name", "After Antonio died in 1971, Maria sold half of the business to the Navarro family."),
        ("negation", "The company, which has 85 employees, also ships abroad."),
        ("date", "When Antonio died in 1977, Maria sold half of the business."),
        ("role", "After Antonio died, the Moreno family sold half of the business to Maria."),
    ],
    _MATCH: [
        ("ok", "On Saturday Arsenal defeated Chelsea by three goals to one at Wembley, watched by 71,500 people."),
        ("ok", "Chelsea were beaten 3-1 by Arsenal. Two goals came from Henry before half-time; Bergkamp scored the other in "
               "minute 78."),
        ("ok", "Q: Why was Vieira praised?\nA: Wenger praised him because he had missed training all week with an ankle injury."),
        ("role", "Chelsea beat Arsenal 3-1 at Wembley on Saturday."),
        ("role", "Arsenal were beaten 3-1 by Chelsea at Wembley."),
        ("date", "Arsenal beat Chelsea 3-1 at Wembley on Sunday."),
        ("number", "Bergkamp added a third goal in the 87th minute."),
        ("name", "Chelsea's only goal was scored by Vialli."),
        ("negation", "Wenger praised Vieira, who had trained all week."),
        ("number", "An attendance of 75,100 saw Arsenal win."),
        ("role", "Vieira praised Wenger after the game."),
    ],
    _DRUG: [
        ("ok", "A total of 960 patients took part: 640 were given a daily 50 mg dose for three months or so, and 320 a placebo."),
        ("ok", "Blood pressure dropped 15% among treated patients. Mild side effects were common, but the liver was unharmed."),
        ("ok", "According to Okafor, who works at Lagos General Hospital, the findings appeared in May 2016."),
        ("number", "640 patients were given 5 mg of the drug each day for 12 weeks."),
        ("unit", "Patients received 50 g of the drug daily for 12 weeks."),
        ("unit", "Each of the 640 patients took 50 mg of the drug daily for 12 months."),
        ("negation", "The drug caused liver damage in the trial."),
        ("date", "The results were published in May 2018, Dr. Okafor said."),
        ("name", "Dr. James Adeyemi of Lagos General Hospital said the results were published in May 2016."),
        ("negation", "Side effects were uncommon and mild."),
        ("number", "In the study, 320 patients received the drug and 640 received a placebo."),
    ],
    _QUEEN: [
        ("ok", "Adelina II was queen of the island for 35 years, from 1604 to 1639."),
        ("ok", "In 1611 Rodrigo was defeated by Queen Adelina at Corvan. A treaty with the Netherlands followed in 1613."),
        ("ok", "Prince Marek, the queen's eldest son, did not become king; her cousin Stefan inherited the crown instead."),
        ("role", "King Rodrigo defeated Queen Adelina at the Battle of Corvan in 1611."),
        ("role", "Queen Adelina was defeated by King Rodrigo at the Battle of Corvan."),
        ("negation", "Her eldest son, Prince Marek, became king."),
        ("negation", "Parliament accepted Prince Marek, her eldest son."),
        ("date", "Queen Adelina II ruled the island from 1604 until her death in 1649."),
        ("name", "She signed a treaty with the Portuguese two years after the battle."),
        ("name", "The crown passed to Adelina's cousin Casimir."),
    ],
    _LAPTOP: [
        ("ok", "Weighing 1.3 kilograms (2.9 pounds), the Zephyr 14 runs for 18 hours on a charge and costs 1,199 euros."),
        ("ok", "The laptop lacks a headphone jack, unlike its predecessor. TechRadar found it quicker than the Orion X."),
        ("ok", "Reviewers called the keyboard uncomfortable. The 14-inch display measures roughly 36 cm."),
        ("unit", "In France and Germany the laptop is sold for $1,199."),
        ("number", "The Zephyr 14 weighs 1.8 kg and its battery lasts 18 hours."),
        ("unit", "Its battery lasts 18 minutes."),
        ("negation", "Like the previous model, it has a headphone jack."),
        ("name", "It is on sale in Germany and Italy for €1,199."),
        ("role", "Reviewers found that the Orion X is faster than the Zephyr 14."),
        ("negation", "Reviewers at TechRadar thought the keyboard is comfortable."),
    ],
    _CLUB: [
        ("ok", "The club gathers in the town hall at 19:30 on the first Monday of each month. Dues are 25 dollars per year."),
        ("ok", "Dogs are forbidden, though visitors can come along. Hartley is to speak on roses in April."),
        ("ok", "Sixty-four members joined last year's plant sale, which raised nearly $2,500."),
        ("date", "The gardening club meets on the first Tuesday of every month at 7:30 pm."),
        ("date", "The gardening club meets at 8:30 pm in the town hall."),
        ("negation", "Visitors are welcome, and dogs are allowed."),
        ("name", "In April, Ellen Whitfield will give a talk about roses."),
        ("date", "In July the club will travel to Kew Gardens."),
        ("number", "Membership costs $35 a year."),
        ("negation", "Visitors are not welcome at the club's meetings in the town hall."),
    ],
    _PLANET: [
        ("ok", "Discovered in 2014 at NASA's Ames center, Kepler-186f circles a red dwarf some 580 light years away."),
        ("ok", "The planet needs 130 days for each orbit, and its radius is 17% larger than Earth's."),
        ("ok", "It is unknown whether Kepler-186f has an atmosphere. Four more planets orbit the same star."),
        ("number", "Kepler-186f completes one orbit every 310 days."),
        ("date", "A NASA team discovered Kepler-186f in 2004."),
        ("name", "Kepler-186f was discovered by a team at NASA's Langley Research Center."),
        ("negation", "Astronomers know whether the planet has an atmosphere."),
        ("unit", "The planet orbits a red dwarf about 580 miles from Earth."),
        ("number", "The host star has six other planets."),
    ],
    _TOWN: [
        ("ok", "With 12,400 residents, the Austrian town of Lindhof sits at an altitude of 510 m, about 22 miles west of Graz."),
        ("ok", "A fire destroyed Lindhof in 1742, almost four centuries after it was given market rights in 1357."),
        ("ok", "On weekends the public can visit the castle; the chapel is not open. Composer Weidinger was born in Lindhof on "
               "February 3, 1811."),
        ("negation", "The castle and the chapel: the castle is closed to the public on weekends."),
        ("negation", "On weekends, the castle is not open to the public."),
        ("date", "Franz Weidinger was born in Lindhof on 3 February 1881."),
        ("date", "The composer Franz Weidinger was born there on 13 February 1811."),
        ("name", "Lindhof lies 35 kilometres west of Linz."),
        ("number", "Lindhof is a town of 14,200 inhabitants."),
        ("unit", "The town is 510 feet above sea level."),
    ],
    _RIVER: [
        ("ok", "From its source in the Pell Hills, the Osmer runs roughly 300 kilometres southward to the Gulf of Marn."),
        ("ok", "There are three dams: two from the 1930s and one finished in 1968. About 20% of farmland in the valley relies on "
               "the river."),
        ("ok", "During the 1976 drought the river kept flowing, though fishing was prohibited for eight months."),
        ("number", "The Osmer River flows 178 miles south to the Gulf of Marn."),
        ("date", "A third dam on the river was completed in 1986."),
        ("negation", "In the drought of 1976 the river dried up."),
        ("negation", "In the drought of 1976, fishing was not banned."),
        ("name", "The river rises in the Pell Hills and reaches the Gulf of Soren."),
        ("number", "Roughly one third of the valley's farmland depends on the river's water."),
    ],
    _NOVEL: [
        ("ok", "In autumn 1927, Wren needed only six weeks to write The Glass Orchard, which Harcourt turned down."),
        ("ok", "Faber eventually brought the book out in 1931, and all 1,500 copies of the first edition were gone within ten "
               "days. Its ending was disliked by critics."),
        ("ok", "A French translation was made by Clara, the author's sister. The novel was awarded the Aldous Prize."),
        ("date", "Thomas Wren wrote The Glass Orchard in the spring of 1927."),
        ("name", "The publisher Harcourt rejected it, and Penguin finally published it in 1931."),
        ("name", "Faber rejected the novel, and it was Harcourt who published it in 1931."),
        ("negation", "Critics liked the ending, and the novel won the Aldous Prize."),
        ("negation", "The novel did not win the Aldous Prize."),
        ("number", "The first edition of 1,500 copies sold out in twelve days."),
        ("name", "Wren's sister Clara translated it into German."),
    ],
    _LAW: [
        ("ok", "On October 4, 2007 the Senate approved the Clean Harbours Act, 61 to 37. Violators pay between $5,000 and $75,000."),
        ("ok", "Ships over 80 m in length must burn low-sulphur fuel when they are less than 24 nautical miles (about 44 km) from "
               "shore. Fishing boats are exempt."),
        ("ok", "The bill was introduced by Ruth Calloway and opposed by Paul Dempsey, both senators."),
        ("role", "Senator Paul Dempsey introduced the bill; Senator Ruth Calloway opposed it."),
        ("number", "The Senate passed the act by 67 votes to 31."),
        ("date", "The Clean Harbours Act was passed on 4 October 2008."),
        ("negation", "Fishing boats are covered by the act."),
        ("unit", "The act requires ships longer than 80 feet to use low-sulphur fuel."),
        ("number", "Fines range from $5,000 to $57,000."),
        ("name", "The bill was introduced by Senator Ruth Calder."),
    ],
    _RECIPE: [
        ("ok", "Heat the oven to 356 °F. Combine 250 grams of flour and 2 tsp of baking powder; add 3 eggs and 120 millilitres of "
               "milk."),
        ("ok", "The cake should bake for thirty-five minutes. Avoid overmixing. Stored in a tin, it lasts 5 days; it must not go "
               "in the refrigerator."),
        ("unit", "Preheat the oven to 180 °F."),
        ("number", "Bake for 53 minutes, until a skewer comes out clean."),
        ("negation", "The cake keeps for five days in a tin and should be stored in the refrigerator."),
        ("number", "Add four eggs and 120 ml of milk."),
        ("unit", "Mix 250 kg of flour with two teaspoons of baking powder."),
        ("unit", "The cake keeps for five weeks in a tin."),
    ],
    _FIRM: [
        ("ok", "Northwind Energy's 2019 revenue rose 12 percent to 4.2 billion pounds, while profit declined to £310m."),
        ("ok", "Brightfield sold Solaris to Northwind for 95 million pounds, according to CEO Laura Benning. No dividend was "
               "approved."),
        ("ok", "The company has 8,000 employees in total, 6,800 of them British and 1,200 Danish."),
        ("number", "Northwind Energy reported revenue of £2.4 billion for 2019."),
        ("role", "The company had bought Brightfield from Solaris for £95 million."),
        ("negation", "The board approved a dividend."),
        ("unit", "Northwind Energy reported revenue of €4.2 billion for 2019."),
        ("name", "The firm employs 6,800 people in the United Kingdom and 1,200 in Norway."),
        ("number", "The firm employs 1,200 people in the United Kingdom and 6,800 in Denmark."),
        ("name", "Chief executive Laura Hastings said the company had bought Solaris."),
    ],
    _BIRD: [
        ("ok", "Four to six eggs are laid, and they hatch after 15 days. Adult birds weigh 11 g and do not migrate."),
        ("ok", "Females are smaller than males. In 2003 the Audubon Society counted 8,350 birds in Louisiana."),
        ("ok", "The population in Louisiana had fallen by 33% since 1980, although the wren is not considered endangered."),
        ("role", "Females are larger than males."),
        ("negation", "The species is endangered."),
        ("negation", "Adults are migratory and weigh 11 grams."),
        ("number", "The wren lays between four and nine eggs."),
        ("date", "A survey by the Audubon Society in 2013 counted 8,350 birds in Louisiana."),
        ("name", "The Audubon Society counted 8,350 birds in Mississippi in 2003."),
        ("unit", "Adults weigh 11 ounces."),
    ],
    _SCHOOL: [
        ("ok", "Father Doyle established St. Brendan's School in 1894; it had a single teacher and seventeen pupils."),
        ("ok", "In 1922 the school relocated to Limerick from Cork. It first admitted girls in 1969."),
        ("ok", "Nora Keane, later Ireland's Minister of Education, was taught Latin by the poet Seamus Lynch."),
        ("role", "Nora Keane taught Seamus Lynch Latin at the school."),
        ("role", "In 1922 it moved from Limerick to Cork."),
        ("number", "The school was founded in 1894 with 71 pupils and one teacher."),
        ("date", "St. Brendan's School was founded by Father Michael Doyle in 1849."),
        ("name", "St. Brendan's School was founded by Father Michael Byrne in 1894."),
        ("number", "The poet Seamus Lynch taught Latin there for twelve years."),
    ],
    _FLIGHT: [
        ("ok", "With 138 people aboard in total, 132 passengers and six crew, Flight 417 took off from Denver at a quarter to "
               "seven on Tuesday morning."),
        ("ok", "40 minutes into the flight, Captain Reyes noticed smoke and put the Boeing 737 down in Omaha. There were no "
               "injuries."),
        ("ok", "No fire evidence was found by investigators. The plane's last inspection had been two days before."),
        ("number", "Flight 417 left Denver with 123 passengers and six crew."),
        ("date", "Flight 417 left Denver at 5:45 am on Tuesday."),
        ("date", "Flight 417 left Denver at 6:45 am on Thursday."),
        ("name", "The pilot reported smoke in the cabin and landed in Tulsa."),
        ("negation", "Investigators found evidence of a fire."),
        ("name", "The aircraft, an Airbus 737, had been inspected two days earlier."),
        ("number", "Fourteen minutes later the pilot reported smoke in the cabin."),
    ],
    _SOIL: [
        ("ok", "The soil consists of clay (28%), sand (32%) and silt (40%). The region gets 90 cm of rain on average, mainly from "
               "June to September."),
        ("ok", "Local farmers raise four crops: maize, beans, squash and peppers. They use no chemical fertiliser."),
        ("ok", "Yields climbed from 2.1 tonnes a hectare in 1995 to 3.4 tonnes."),
        ("number", "Soil in the Varen basin holds 32 percent clay and 28 percent sand."),
        ("unit", "Average rainfall in the basin is 900 cm."),
        ("date", "Most of the rain falls between July and September."),
        ("number", "Five crops are grown by the farmers, and yields have risen from 2.1 to 4.3 tonnes per hectare."),
        ("negation", "Yields have risen since 1995, and chemical fertiliser is used."),
        ("name", "Soil in the Doran basin holds 28 percent clay."),
    ],
    _ARTIST: [
        ("ok", "In 1921 the Japanese painter Tanabe left Osaka for Paris and became a student of Lhote."),
        ("ok", "Nineteen landscapes hung in her 1926 debut show at the Galerie Percier. She did not like Dalí, but admired "
               "Braque."),
        ("ok", "Yuki Tanabe died, aged eighty-six, on August 30th, 1983, in the French city of Nice."),
        ("role", "The painter moved from Paris to Osaka in 1921."),
        ("name", "She admired Matisse and disliked Dalí."),
        ("negation", "Tanabe later returned to Japan."),
        ("number", "Her first exhibition included ninety landscapes."),
        ("date", "She died in Nice on 30 August 1938 at the age of 86."),
        ("number", "She died in Nice at the age of 68."),
        ("name", "She died in Lyon on 30 August 1983."),
        ("negation", "She did not admire Braque, and she disliked Dalí."),
    ],
}  # fmt: skip

_STRIKE = "Dockworkers in Port Aldry went on strike on 7 September 2011 after talks with Merrow Shipping collapsed. About 1,150 workers joined the walkout, which lasted 23 days and cost the company an estimated $18 million. Union leader Tomas Greer rejected a first offer of a 3 percent raise. The final agreement gave workers 5.5 percent over two years, but it did not restore the pensions that had been cut in 2008."
_CHEESE = "Valmonte is a hard cheese made from raw sheep's milk in the hills of northern Portugal. Each wheel weighs about 4 kg and must mature for at least 90 days at 12 °C. The cheese received protected status in 1996. It is never made from cow's milk. Around 140 farms produce 620 tonnes of it every year, and roughly a quarter is exported, mostly to Brazil and France."
_COMPUTER = "The Halden-2 computer was completed in 1957 by a group of nine engineers under Karin Voss at the University of Uppsala. It contained 2,400 vacuum tubes, used 35 kilowatts of power and could perform 1,800 additions per second. Unlike the Halden-1, it had a magnetic drum memory. Voss left the project in 1959 and was succeeded by Olof Brandt. The machine was switched off in 1966."
_TREATY = "The Treaty of Brenholt ended the war between Sweden and Livonia in 1583. Under its terms Livonia ceded the island of Dagby and paid 40,000 silver marks. King John III signed it on 14 June; the Livonian council ratified it eleven days later. The treaty did not mention the fate of the prisoners. Poland, which had supported Livonia, was not invited to the talks."
_RUNNER = "Kenyan runner Esther Wanjiru won the Hamburg Marathon on Sunday in 2 hours, 24 minutes and 11 seconds, beating Ethiopia's Almaz Tadesse by 38 seconds. Wanjiru, 27, had finished third in 2017. Tadesse led for the first 30 kilometres but was unable to keep the pace. Some 11,900 runners started in heavy rain, and 10,250 reached the finish."
_LIBRARY = "The Carrow Library opened in 1903 with a gift of £12,000 from Andrew Pell. It holds 86,000 books, 340 manuscripts and a letter by Charlotte Brontë. Books may be borrowed for three weeks; manuscripts cannot be borrowed. The east wing was damaged by bombs in February 1941 and rebuilt ten years later. Admission is free, and the reading room is closed on Mondays."

FRESH_TABLE: dict[str, Rephrasings] = {
    _STRIKE: [
        (
            "ok",
            "In September 2011 some 1,150 dockworkers at Port Aldry stopped work when negotiations with Merrow Shipping broke down.",
        ),
        (
            "ok",
            "Q: How long did the strike last?\nA: The walkout went on for twenty-three days and cost Merrow roughly 18 million dollars.",
        ),
        (
            "ok",
            "Greer, the union's leader, turned down an initial offer of 3%. Workers eventually got 5.5% over two years, although the pensions cut in 2008 were not restored.",
        ),
        (
            "ok",
            "**Summary**\n\n- More than 1,100 workers took part\n- Start: 7 Sept. 2011\n- Outcome: a 5.5 percent raise",
        ),
        ("number", "Around 1,510 workers took part in the strike, which lasted 23 days."),
        ("date", "The strike in Port Aldry began on 17 September 2011."),
        ("name", "Union leader Tomas Keller rejected a first offer of a 3 percent raise."),
        (
            "negation",
            "The final agreement gave workers 5.5 percent over two years and restored the pensions that had been cut in 2008.",
        ),
        ("unit", "The walkout lasted 23 weeks and cost the company an estimated $18 million."),
        ("negation", "Union leader Tomas Greer accepted a first offer of a 3 percent raise."),
    ],
    _CHEESE: [
        (
            "ok",
            "Made from the raw milk of sheep in northern Portugal, Valmonte is a hard cheese that ripens for a minimum of 90 days.",
        ),
        (
            "ok",
            "A wheel of this Portuguese cheese weighs roughly 4 kilograms (8.8 lb). About 25% of production is sold abroad, chiefly in Brazil and France.",
        ),
        (
            "ok",
            "Since 1996 Valmonte has been protected. Cow's milk is never used. Every year 140 farms turn out some 620 tonnes.",
        ),
        ("number", "Around 410 farms produce 620 tonnes of the cheese every year."),
        ("unit", "The cheese must mature for at least 90 days at 12 °F."),
        ("negation", "The cheese is often made from cow's milk."),
        ("name", "Roughly a quarter of the cheese is exported, mostly to Brazil and Spain."),
        ("date", "The cheese received protected status in 1999."),
        ("number", "Roughly half of the cheese is exported."),
    ],
    _COMPUTER: [
        ("ok", "Karin Voss and her team of nine engineers finished the Halden-2 at Uppsala University in 1957."),
        (
            "ok",
            "The machine drew 35 kW, had 2,400 tubes and managed 1,800 additions a second. It remained in use until 1966, nine years after completion.",
        ),
        (
            "ok",
            "When Voss departed in 1959, Olof Brandt took over. The Halden-1 had no magnetic drum memory, but its successor did.",
        ),
        ("role", "Olof Brandt left the project in 1959 and was succeeded by Voss."),
        ("number", "It contained 4,200 vacuum tubes and used 35 kilowatts of power."),
        ("unit", "The computer could perform 1,800 additions per minute."),
        ("name", "The computer was built under Karin Voss at the University of Lund."),
        ("negation", "Unlike the Halden-1, it had no magnetic drum memory."),
        ("date", "The machine was switched off in 1968."),
    ],
    _TREATY: [
        (
            "ok",
            "With the Treaty of Brenholt, signed on June 14, 1583, the war of Sweden against Livonia came to an end.",
        ),
        (
            "ok",
            "Livonia gave up the island of Dagby and had to pay forty thousand marks of silver. The Livonian council approved the treaty 11 days after the king had signed.",
        ),
        (
            "ok",
            "What was left out? The treaty said nothing about prisoners, and the Poles, Livonia's supporters, did not take part in the talks.",
        ),
        ("role", "Livonia, which had supported Poland, was not invited to the talks."),
        ("number", "Livonia ceded the island and paid 14,000 silver marks."),
        ("date", "King John III signed the treaty on 14 July."),
        ("name", "Under its terms Livonia ceded the island of Oesel."),
        ("negation", "Poland, which had supported Livonia, was invited to the talks."),
        ("name", "The Treaty of Brenholt ended the war between Denmark and Livonia."),
    ],
    _RUNNER: [
        (
            "ok",
            "Esther Wanjiru of Kenya took victory at Sunday's Hamburg Marathon, finishing in 2:24:11, thirty-eight seconds ahead of Almaz Tadesse from Ethiopia.",
        ),
        ("ok", "Tadesse was in front for 30 km, but could not keep up. Wanjiru, aged 27, had placed third in 2017."),
        ("ok", "In heavy rain, nearly 12,000 runners set off and 10,250 finished."),
        ("role", "Almaz Tadesse won the Hamburg Marathon on Sunday, beating Esther Wanjiru by 38 seconds."),
        ("number", "Wanjiru won in 2 hours, 24 minutes and 51 seconds."),
        ("name", "The Kenyan runner won the Berlin Marathon on Sunday."),
        ("unit", "Tadesse led for the first 30 miles."),
        ("date", "Wanjiru had finished third in 2015."),
        ("negation", "Tadesse was able to keep the pace."),
    ],
    _LIBRARY: [
        ("ok", "Thanks to a donation of 12,000 pounds by Andrew Pell, the Carrow Library was opened in 1903."),
        (
            "ok",
            "The collection comprises 86,000 books and 340 manuscripts. Books can be taken home for 21 days, but not manuscripts.",
        ),
        (
            "ok",
            "Bombs damaged the east wing in February 1941; it was rebuilt in 1951. Visitors pay nothing. On Mondays the reading room does not open.",
        ),
        ("negation", "Manuscripts may be borrowed for three weeks."),
        ("negation", "The reading room is open on Mondays."),
        ("number", "The library holds 68,000 books and 340 manuscripts."),
        ("name", "It also has a letter by Jane Austen."),
        ("date", "The east wing was damaged by bombs in March 1941."),
        ("number", "Books may be borrowed for four weeks."),
    ],
}

PAIRS = [Pair(kind, source, rephrased) for source, found in TABLE.items() for kind, rephrased in found]
DEVELOPED = [Pair(k, s, r) for n, (s, found) in enumerate(TABLE.items()) if n % 2 == 0 for k, r in found]
HELD = [Pair(k, s, r) for n, (s, found) in enumerate(TABLE.items()) if n % 2 for k, r in found]
FRESH = [Pair(k, s, r) for s, found in FRESH_TABLE.items() for k, r in found]
